"""Data sets by name, and the loader that evaluation reads them with."""

from . import detection_utils, samplers, transforms
from .build import build_detection_test_loader, get_detection_dataset_dicts
from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .common import DatasetFromList, MapDataset

__all__ = ["DatasetCatalog", "DatasetFromList", "MapDataset", "Metadata", "MetadataCatalog"]
__all__ += ["build_detection_test_loader", "detection_utils", "get_detection_dataset_dicts", "samplers", "transforms"]
