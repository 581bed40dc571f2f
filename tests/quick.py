"""What XLA compiles fastest with: tests compile much and compute little.

Without LLVM's optimisations a multiply and an add stay two roundings, too, so two programs that do
the same arithmetic give the same bits.
"""

import importlib.metadata

OPTIONS = {"xla_backend_optimization_level": 0}
# XLA's older emitter of kernels and one module of code take half as long as what users have. Other
# releases do not know the option.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    OPTIONS |= {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
