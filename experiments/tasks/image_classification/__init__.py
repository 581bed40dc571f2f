"""Image classification: digits, or any prepared set with images and labels."""

from experiments.inputs import Task

from ._inputs import read, resident, streamed

TASK = Task(
    read=read,
    make_inputs=resident,
    stream=streamed,
    depends_on=("data", "data_dir", "data_cache"),
)
