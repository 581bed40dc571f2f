"""Budgets: how much of a network may be left."""

from jaxprune.structured.budgets._budget import Budget as Budget
from jaxprune.structured.budgets._bytes import bytes as bytes
from jaxprune.structured.budgets._latency import latency as latency
from jaxprune.structured.budgets._latency_table import LatencyTable as LatencyTable
from jaxprune.structured.budgets._macs import macs as macs
from jaxprune.structured.budgets._parameters import parameters as parameters
