"""Interactions as a TFDS data set: one array_record record a user.

TensorFlow Datasets is imported inside the functions, since importing the package must
stay fast. TensorFlow itself is never needed: our builders generate from NumPy, and
records are parsed by the protocol-buffer class that TFDS carries.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_rec.data.interactions import Entities, Interactions
from fedjax_rec.storage.errors import FileError

VERSION = "1.1.0"
"""Of what is read and its form: in the cache key, to be raised when either changes."""

_COLUMNS = ("item", "rating", "timestamp", "position")


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
        interactions: what to write.
        data_dir: TFDS's folder for data sets.
        source: the source's name; the builder's is the same with underscores.
        config: the builder configuration's name.
        origin: what the data were made of; kept in the metadata.
        progress: whether TFDS shows its bars.

    Returns:
        The folder `data_dir/<builder>/<config>/<version>`.
    """
    import tensorflow_datasets as tfds

    metadata = {
        "name": interactions.name,
        "rows": len(interactions),
        "users": _entities_to_json(interactions.users),
        "items": _entities_to_json(interactions.items),
        "notes": dict(interactions.notes),
        "origin": dict(origin),
    }

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """One record a user."""

        name = builder_name(source)
        VERSION = tfds.core.Version(globals()["VERSION"])
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)]  # noqa: RUF012

        def _info(self):
            ragged = tfds.features.Tensor
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{source}: one record a user, in the order of time",
                features=tfds.features.FeaturesDict(
                    {
                        "user": np.int32,
                        "item": ragged(shape=(None,), dtype=np.int32),
                        "rating": ragged(shape=(None,), dtype=np.float32),
                        "timestamp": ragged(shape=(None,), dtype=np.int64),
                        "position": ragged(shape=(None,), dtype=np.int64),
                    }
                ),
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
            # Asking a bucket on the network whether it has our data is no use.
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    return Path(builder.data_dir)


def read(folder: Path) -> Interactions:
    """The interactions that `write` left in `folder`.

    Raises:
        FileError: the folder is damaged.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(folder))
        metadata: Any = builder.info.metadata
        counted, users, items = metadata["rows"], metadata["users"], metadata["items"]
        user, columns = _read_records(builder)
        if len(user) != counted or len(np.unique(user)) != len(users["ids"]):
            raise ValueError(f"{len(user)} interactions, and {counted} were written")
    except Exception as error:  # whatever a damaged file makes TFDS raise
        raise FileError(
            f"a damaged cache entry ({type(error).__name__}: {error})",
            file=folder,
            expected="what was prepared there",
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
    """The TFDS name of a source."""
    return source.replace("-", "_")


def _records(interactions: Interactions) -> Iterator[tuple[int, dict[str, Any]]]:
    offsets = interactions.offsets()
    columns = {name: getattr(interactions, name) for name in _COLUMNS}
    for user in range(interactions.num_users):
        rows = slice(offsets[user], offsets[user + 1])
        yield user, {"user": user} | {k: v[rows] for k, v in columns.items()}


def _read_records(builder: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All records' columns end to end.

    TFDS decodes feature by feature through its specifications, at some 140 us a
    record. Its proto class on the raw bytes takes 16 us for the same numbers.
    """
    from tensorflow_datasets.core import decode, example_parser

    source = builder.as_data_source(
        split="train", deserialize_method=decode.DeserializeMethod.RAW_BYTES
    )
    # The class is made at import, where a type checker cannot see it.
    parse = getattr(example_parser.tf_example_pb2, "Example").FromString  # noqa: B009
    users: list[int] = []
    lengths: list[int] = []
    values: dict[str, list] = {name: [] for name in _COLUMNS}
    for record in source.__getitems__(range(len(source))):
        features = parse(record).features.feature
        users.append(features["user"].int64_list.value[0])
        lengths.append(len(features["item"].int64_list.value))
        values["rating"].extend(features["rating"].float_list.value)
        for name in ("item", "timestamp", "position"):
            values[name].extend(features[name].int64_list.value)
    dtypes = {"item": np.int32, "rating": np.float32}
    columns = {k: np.array(v, dtypes.get(k, np.int64)) for k, v in values.items()}
    return np.repeat(np.array(users, np.int32), lengths), columns


def _entities_to_json(entities: Entities) -> dict[str, Any]:
    return {
        "ids": list(entities.ids),
        "titles": None if entities.titles is None else list(entities.titles),
        "attributes": {k: list(v) for k, v in entities.attributes.items()},
    }


@contextlib.contextmanager
def _tfds_output(progress: bool) -> Iterator[None]:
    """Bars on stderr if asked for; TFDS's own words on stdout never."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(progress)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)
