"""Run a grain pipeline in this process or in worker processes that do not outlive it."""

import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

# Batches made ahead in each process: enough to bridge one slow read, few enough that large images
# in many workers still fit (grain's own default is 500, meant for single examples).
_AHEAD = 2


def import_grain() -> Any:
    """Grain, or an ImportError that says how to install it."""
    try:
        import grain
    except ImportError as error:
        raise ImportError(
            "streaming needs grain, which is not installed: pip install grain array-record"
        ) from error
    return grain


def check_workers(workers: int) -> None:
    """Refuse a negative number of worker processes.

    Raises:
        ValueError: with the value.
    """
    if workers < 0:
        raise ValueError(
            f"workers={workers} must be 0 (a thread of this process) or a number of processes"
        )


class Batches(Iterator[dict[str, np.ndarray]]):
    """An iterator of host batches, some of them made ahead, that can be closed.

    It is closed when it is exhausted, has failed, is collected, or the program ends: an open one
    of grain's would end with tracebacks from `__del__` and leaked shared memory.
    """

    def __init__(self, batches: Any) -> None:
        """Take over an iterator of grain's; nobody else may hold it."""
        self._open = [batches]
        self._exhausted = False
        self._close = weakref.finalize(self, _close_last, self._open)

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next batch; its arrays are the caller's own."""
        if not self._open:
            if self._exhausted:
                raise StopIteration
            raise ValueError("these batches were closed; call the stream again for new ones")
        try:
            # Copied out of the shared memory that workers write to: a batch that is still alive
            # at exit would leak it, and for photographs copying is less than 1 % of decoding.
            return {key: np.array(value) for key, value in next(self._open[0]).items()}
        except StopIteration:
            self._exhausted = True
            self.close()
            raise
        except Exception:
            # grain's iterator would go on, without the batches of the worker that has failed.
            self.close()
            raise

    def close(self) -> None:
        """Stop making batches and end the worker processes; may be called again."""
        self._close()


def _close_last(batches: list[Any]) -> None:
    batches.pop().close()


def iterate(batches: Any, workers: int) -> Batches:
    """Iterate over a `grain.MapDataset` of batches, some ahead of the caller.

    The order is that of the dataset for any number of workers: each makes every workers-th batch.

    Args:
        batches: the dataset; it must pickle if there are workers.
        workers: processes; with 0, one thread of this process.
    """
    grain = import_grain()
    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
    dataset = batches.to_iter_dataset(read)
    if workers:
        _let_grain_read_flags()
        dataset = dataset.mp_prefetch(
            grain.multiprocessing.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=_AHEAD
            ),
            worker_init_fn=start_worker,
        )
    return Batches(iter(dataset))


def _let_grain_read_flags() -> None:
    """Let grain read its absl flags though this program's `main` is not absl's.

    grain 0.2.18 asks a flag when JAX is imported and worker processes are started, which is an
    error before flags are parsed: https://github.com/google/grain/issues/1355. Programs that do
    use absl have parsed by now, or still can.
    """
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def start_worker(index: int, count: int) -> None:
    """What a worker process does first.

    It leaves interrupts to the parent, which stops it; it keeps JAX, which unpickling may import,
    off the accelerator that the parent uses; and it ends when the parent has ended.
    """
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:  # imported already, with the user's script, and the variable read
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    threading.Thread(target=_follow_parent, name="follow-parent", daemon=True).start()


def _follow_parent() -> None:
    """End this process once its parent is gone.

    A parent that exits stops its workers. One that is killed cannot, and grain's workers would
    wait for ever for somebody to take the next batch.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
