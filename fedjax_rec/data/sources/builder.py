"""Interactions as a TFDS data set with one array_record record per user.

TensorFlow Datasets is imported inside the functions because it is slow to import.
TensorFlow is not needed: the builder generates from NumPy, and records are parsed with
the protocol-buffer class that TFDS includes.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_rec.data.interactions import Entities, Interactions
from fedjax_rec.storage.errors import FileError

VERSION = "1.1.0"
"""Version of the parsers and the record format; part of the cache key."""

_DTYPES = {
    "item": np.int32,
    "rating": np.float32,
    "timestamp": np.int64,
    "position": np.int64,
}


def write(
    interactions: Interactions,
    data_dir: Path,
    source: str,
    config: str,
    *,
    origin: Mapping[str, Any],
    progress: bool = False,
) -> Path:
    """Prepares a data set with TFDS.

    Args:
        interactions: Interactions to write.
        data_dir: Folder in which TFDS stores data sets.
        source: Name of the source; the builder has the same name with underscores.
        config: Name of the builder configuration.
        origin: Everything that determines the data; stored in the metadata.
        progress: Whether TFDS shows progress bars.

    Returns:
        The folder `data_dir/<builder>/<config>/<version>`.
    """
    import tensorflow_datasets as tfds

    metadata = {
        "name": interactions.name,
        "rows": len(interactions),
        "users": dataclasses.asdict(interactions.users),
        "items": dataclasses.asdict(interactions.items),
        "notes": dict(interactions.notes),
        "origin": dict(origin),
    }

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Builder of one data set."""

        name = builder_name(source)
        VERSION = tfds.core.Version(globals()["VERSION"])
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)]  # noqa: RUF012

        def _info(self):
            features = {
                name: tfds.features.Tensor(shape=(None,), dtype=dtype)
                for name, dtype in _DTYPES.items()
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{source}: one record per user, in order of time",
                features=tfds.features.FeaturesDict({"user": np.int32, **features}),
                metadata=tfds.core.MetadataDict(metadata),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from _records(interactions)

    with _tfds_output(progress):
        builder = Builder(data_dir=str(data_dir), file_format="array_record")
        builder.download_and_prepare(
            file_format="array_record",
            # Otherwise TFDS looks for the data set in a bucket on the network.
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    return Path(builder.data_dir)


def read(folder: Path) -> Interactions:
    """Reads the interactions that `write` stored in `folder`.

    Raises:
        FileError: The folder is damaged.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(folder))
        metadata: Any = builder.info.metadata
        rows, users, items = metadata["rows"], metadata["users"], metadata["items"]
        user, columns = _read_records(builder)
        if len(user) != rows or len(np.unique(user)) != len(users["ids"]):
            raise ValueError(f"{len(user)} interactions, but {rows} were written")
    except Exception as error:  # TFDS raises many kinds for damaged files
        raise FileError(
            f"a damaged cache entry ({type(error).__name__}: {error})",
            file=folder,
            expected="a prepared data set",
            fix="Delete that folder, and it is prepared again",
        ) from error
    return Interactions(
        user=user,
        **columns,
        users=Entities(**users),
        items=Entities(**items),
        name=metadata["name"],
        notes=metadata["notes"],
    )


def builder_name(source: str) -> str:
    """Returns the TFDS name of a source."""
    return source.replace("-", "_")


def _records(interactions: Interactions) -> Iterator[tuple[int, dict[str, Any]]]:
    offsets = interactions.offsets()
    columns = {name: getattr(interactions, name) for name in _DTYPES}
    for user in range(interactions.num_users):
        rows = slice(offsets[user], offsets[user + 1])
        yield user, {"user": user} | {k: v[rows] for k, v in columns.items()}


def _read_records(builder: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Concatenates the columns of all records.

    TFDS decodes feature by feature through its specifications, which takes about 140 us
    per record; its protocol-buffer class on the raw bytes takes 16 us.
    """
    from tensorflow_datasets.core import decode, example_parser

    source = builder.as_data_source(
        split="train", deserialize_method=decode.DeserializeMethod.RAW_BYTES
    )
    # The class is created at import, invisible to a type checker.
    parse = getattr(example_parser.tf_example_pb2, "Example").FromString  # noqa: B009
    users: list[int] = []
    lengths: list[int] = []
    values: dict[str, list] = {name: [] for name in _DTYPES}
    for record in source.__getitems__(range(len(source))):
        features = parse(record).features.feature
        users.append(features["user"].int64_list.value[0])
        lengths.append(len(features["item"].int64_list.value))
        values["rating"].extend(features["rating"].float_list.value)
        for name in ("item", "timestamp", "position"):
            values[name].extend(features[name].int64_list.value)
    columns = {name: np.array(v, _DTYPES[name]) for name, v in values.items()}
    return np.repeat(np.array(users, np.int32), lengths), columns


@contextlib.contextmanager
def _tfds_output(progress: bool) -> Iterator[None]:
    """Shows bars on stderr if `progress`, and hides what TFDS prints on stdout."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(progress)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)
