"""TFDS builders of the data sets: encoded videos in ArrayRecord, from the official files in a manual directory.

Examples are those of `schema.features`. Neither TensorFlow nor the ffmpeg binary is needed. Importing this takes some
two seconds.
"""

import logging

import tensorflow_datasets as tfds

from vidjax.data import builders, video
from vidjax.data.builders import frames, listings, schema

LOG = logging.getLogger("vidjax")


class Videos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What all builders share: configs are the official splits, TFDS splits the sides train, eval and test.

    The metadata tell `report`, `missing` ids, `unreadable` {id: reason} and `flip_pairs`.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # where checksums of downloads would lie; finding it needs a package TFDS 4.9.10 does not declare

    def _info(self):
        blank = builders.blank(self.name)
        about = {"report": "", "missing": [], "unreadable": {}, "flip_pairs": [list(pair) for pair in blank.flip_pairs]}
        return tfds.core.DatasetInfo(
            builder=self,
            description=builders.describe(self.name),
            features=schema.features(blank),
            metadata=tfds.core.MetadataDict(about),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        listing = builders.listing(self.name, dl_manager.manual_dir)
        split = self.builder_config.name.removeprefix("split") if self.BUILDER_CONFIGS else ""
        self.info.metadata.update(report=builders.report(listing), missing=list(listing.missing))
        LOG.info("%s", self.info.metadata["report"])
        there = {side: listings.side(listing, split, side) for side in listings.SIDES}
        return {side: self._generate_examples(listing, rows) for side, rows in there.items() if rows}

    def _generate_examples(self, listing, rows):
        """Yields (number, example); a file that cannot be read is left out and named in the log and the metadata."""
        for key, row in enumerate(rows):
            try:
                blob = frames.encoded(row["path"])
                facts = video.probe(blob)
            except (OSError, video.VideoError) as error:
                LOG.warning("%s is left out: %s", row["id"], error)
                self.info.metadata["unreadable"][row["id"]] = str(error)
                continue
            yield key, schema.example(listing, row, blob, facts)


def _builder(name):
    """The builder class of one data set, unregistered: TFDS has a ucf101 of its own."""
    configs = [
        tfds.core.BuilderConfig(name=f"split{split}") for split in listings.splits(builders.blank(name)) if split
    ]
    facts = {"BUILDER_CONFIGS": configs, "MANUAL_DOWNLOAD_INSTRUCTIONS": builders.describe(name)}
    camel = "".join(word.capitalize() for word in name.split("_"))
    return type(camel, (Videos,), facts | {"name": name, "__module__": __name__}, skip_registration=True)


BUILDERS = {name: _builder(name) for name in builders.NAMES if name != "folder"}  # a folder's classes are not known


def build(dataset, source_dir, data_dir, split=""):
    """The TFDS builder of `dataset` with its data below `data_dir`, made from the files in `source_dir` where absent.

    `split` is one of the official splits, where there are several. Read it with `as_data_source`. ValueError.
    """
    if dataset not in BUILDERS:
        raise ValueError(f"no TFDS builder for {dataset!r}; there are {', '.join(BUILDERS)}")
    splits = listings.splits(builders.blank(dataset))
    if split not in splits:
        raise ValueError(f"{dataset} has no split {split!r}; splits are {', '.join(map(repr, splits))}")
    config = {"config": f"split{split}"} if split else {}
    builder = BUILDERS[dataset](data_dir=data_dir, file_format="array_record", **config)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=source_dir))
    return builder
