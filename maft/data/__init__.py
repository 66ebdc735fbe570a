"""Data sets and the test-time mapper, in detectron2's terms.

Call `register_all()` once in every process before a data set is named; importing registers and reads nothing.
"""

from maft.data.catalog import (
    dataset_names,
    dataset_paths,
    dataset_spec,
    dataset_status,
    load_dataset,
    register_all,
    register_custom,
)
from maft.data.locate import DatasetPaths, DatasetStatus, datasets_root
from maft.data.mapper import InferenceMapper
from maft.data.register import register_file, register_modules, registered_name
from maft.data.specs import DatasetSpec
from maft.files import read_label_map, write_label_map

__all__ = [
    "DatasetPaths",
    "DatasetSpec",
    "DatasetStatus",
    "InferenceMapper",
    "dataset_names",
    "dataset_paths",
    "dataset_spec",
    "dataset_status",
    "datasets_root",
    "load_dataset",
    "read_label_map",
    "register_all",
    "register_custom",
    "register_file",
    "register_modules",
    "registered_name",
    "write_label_map",
]
