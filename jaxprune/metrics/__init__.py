"""What a mask or a pruning did, in numbers."""

from jaxprune.metrics._barrier import Barrier as Barrier
from jaxprune.metrics._barrier import barrier as barrier
from jaxprune.metrics._bytes import LeafBytes as LeafBytes
from jaxprune.metrics._bytes import SizeInBytes as SizeInBytes
from jaxprune.metrics._bytes import size_in_bytes as size_in_bytes
from jaxprune.metrics._flops import Flops as Flops
from jaxprune.metrics._flops import LayerMacs as LayerMacs
from jaxprune.metrics._flops import flops as flops
from jaxprune.metrics._latency import Latency as Latency
from jaxprune.metrics._latency import LatencyComparison as LatencyComparison
from jaxprune.metrics._latency import compare_latency as compare_latency
from jaxprune.metrics._latency import latency as latency
from jaxprune.metrics._median import MedianInterval as MedianInterval
from jaxprune.metrics._median import median_interval as median_interval
from jaxprune.metrics._norms import relative_norm_drop as relative_norm_drop
from jaxprune.metrics._overlap import LeafOverlap as LeafOverlap
from jaxprune.metrics._overlap import hamming as hamming
from jaxprune.metrics._overlap import iou as iou
from jaxprune.metrics._overlap import overlap_per_leaf as overlap_per_leaf
from jaxprune.metrics._sparsity import LeafSparsity as LeafSparsity
from jaxprune.metrics._sparsity import counts as counts
from jaxprune.metrics._sparsity import sparsity as sparsity
from jaxprune.metrics._sparsity import sparsity_per_leaf as sparsity_per_leaf
from jaxprune.metrics._stability import pruning_stability as pruning_stability
