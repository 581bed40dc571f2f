"""jaxprune: prune neural networks in JAX, and retrain them well."""

from jaxprune._tree import default_where as default_where
from jaxprune._version import __version__ as __version__
