"""Which rows of a global batch a process makes."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shard:
    """One process's part of every batch: rows [index * rows, (index + 1) * rows).

    Attributes:
        batch_size: examples per step, over all processes.
        index: which process, `jax.process_index()`.
        count: how many processes, `jax.process_count()`.
    """

    batch_size: int
    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be divided evenly."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        if self.count < 1:
            raise ValueError(f"process_count={self.count} must be at least 1")
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"process_index={self.index} is outside [0, process_count={self.count}); pass"
                " jax.process_index() and jax.process_count()"
            )
        if self.batch_size % self.count:
            raise ValueError(
                f"batch_size={self.batch_size} is the batch of all processes and is not divisible"
                f" by process_count={self.count}; take"
                f" {self.batch_size + -self.batch_size % self.count}"
            )

    @property
    def rows(self) -> int:
        """Rows of each batch that this process makes."""
        return self.batch_size // self.count

    def first_row(self, step: int) -> int:
        """Position of this process's first row of a step among the rows of all steps."""
        return step * self.batch_size + self.index * self.rows
