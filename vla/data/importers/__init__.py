"""Recordings of other formats, written as LeRobotDataset v3.0.

    report = import_dataset("path/to/recording", "data/mine", image_size=128)

LeRobot v2.0, v2.1 and v3.0, RLDS (TFDS folders of TFRecord files, read without TensorFlow), and what a robot recorded
without a dataset's libraries (`vla.spool`). The format is detected.
"""

from vla.data.importers.run import ImportReport, import_dataset, open_source
from vla.data.importers.source import Source

__all__ = ["ImportReport", "Source", "import_dataset", "open_source"]
