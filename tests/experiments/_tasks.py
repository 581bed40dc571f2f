"""What tests of tasks share: small prepared sets, and runs on data in memory."""

import csv
import dataclasses
import io
import json

from PIL import Image
from rich.console import Console

from experiments import job
from experiments.setup import build

_FEATURES = "tensorflow_datasets.core.features"


def text_feature():
    return {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}


def image_feature(height, width, channels):
    shape = {"dimensions": [str(x) for x in (height, width, channels)]}
    return {
        "pythonClassName": f"{_FEATURES}.image_feature.Image",
        "image": {"dtype": "uint8", "encodingFormat": "png", "shape": shape},
    }


def png(array):
    held = io.BytesIO()
    Image.fromarray(array.squeeze()).save(held, format="PNG")
    return held.getvalue()


def write_examples(data_dir, name, features, splits):
    """Writes {split: [{field: bytes}]} in tfds' own array-record layout, without tfds' help."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2 as proto

    folder = data_dir / name / "1.0.0"
    folder.mkdir(parents=True)
    infos = []
    for split, examples in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for one in examples:
            example = proto.Example()
            for field, value in one.items():
                example.features.feature[field].bytes_list.value.append(value)
            writer.write(example.SerializeToString())
        writer.close()
        infos.append(
            {
                "name": split,
                "numBytes": str(path.stat().st_size),
                "shardLengths": [str(len(examples))],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": infos}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    kind = f"{_FEATURES}.features_dict.FeaturesDict"
    described = {"pythonClassName": kind, "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(described))


def run(config, dataset, **options):
    """A run on data in memory: its result, and what it printed."""
    console = Console(file=io.StringIO(), width=120)
    parts = build(config, dataset=dataset)
    result = job.run(config, console=console, parts=parts, **options)
    return result, console.file.getvalue()


def summary(folder):
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def with_method(config, tmp_path, method, **options):
    options = {"run_dir": tmp_path / method, **options}
    return dataclasses.replace(config, method=method, **options)
