"""A data set of the hub, opened for streaming, and what can be wrong with it."""

import codecs
import logging
import re
from collections.abc import Iterator
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

from antimatter.data.sources.config import LIST, HubDataSet, page_of
from antimatter.data.sources.hub_http import HubClient, first_line
from antimatter.errors import UserError


@cache
def open_data_set(data_set: HubDataSet) -> Any:
    """The data set as a datasets.IterableDataset.

    Raises:
        UserError: there is no such data set, revision, config, split or text column; its terms are
            not accepted; or the hub cannot be reached.
    """
    HubClient.begin(data_set)
    try:
        # Here, since it reads HTTPS_PROXY, which may hold anything
        _set_up()
        return _open(data_set)
    except UserError:
        raise
    except Exception as error:
        fault = f"{data_set.stage}.hub: {data_set.name} cannot be streamed: {first_line(error)}"
        raise permanent_error(error, data_set) or UserError(fault) from None


@cache
def _set_up() -> None:
    # Takes half a second, which the other sources need not pay
    import datasets  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    disable_progress_bars()
    for library in (datasets.logging, huggingface_hub.logging):
        library.set_verbosity(logging.CRITICAL)
    # Would be a request to another host
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    codecs.register(_codec)
    hooks = huggingface_hub.get_session().event_hooks
    huggingface_hub.set_client_factory(lambda: HubClient(event_hooks=hooks, follow_redirects=True))


def _open(data_set: HubDataSet) -> Any:
    import datasets

    api, column = huggingface_hub.HfApi(), data_set.text_column
    if api.dataset_info(data_set.name, revision=data_set.revision).gated:
        api.auth_check(data_set.name, repo_type="dataset")
    # An empty cache: when the hub fails, `datasets` would take any revision that its cache holds
    with TemporaryDirectory() as empty:
        builder = datasets.load_dataset_builder(
            # With the protocol, so never a local folder of that name
            f"hf://datasets/{data_set.name}",
            data_set.config,
            revision=data_set.revision,
            cache_dir=empty,
        )
    if builder.name == "json":
        builder.config.encoding = MENDED
    dataset = builder.as_streaming_dataset(data_set.split)
    # Unknown for some JSON, whose rows are checked when they are read
    if dataset.features:
        _check_column(dataset.features, data_set)
    if builder.name == "parquet":
        builder.config.columns = [column]
        builder._generate_tables = lambda files, **_: _tables(files, column)
        dataset = builder.as_streaming_dataset(data_set.split)
    return dataset


def _check_column(features: Any, data_set: HubDataSet) -> None:
    where, column = f"{data_set.stage}.hub: {data_set.name}", data_set.text_column
    if column not in features:
        fix = f"set {data_set.column_key} to one of {', '.join(features)}"
        raise UserError(f"{where} has no column `{column}`: {fix}")
    dtype = getattr(features[column], "dtype", LIST)
    if not data_set.accepts(dtype):
        raise UserError(f"{where}: {data_set.rejection(dtype)}")


def _tables(paths: list[str], column: str) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    """The text in parquet files, with (file, batch), read in this thread.

    This replaces a method of `datasets` that fetches and decodes whole files ahead in threads. They
    outlive the reading, and abort a process that ends meanwhile
    (https://github.com/apache/arrow/issues/45214).
    """
    for number, path in enumerate(paths):
        with huggingface_hub.HfFileSystem().open(path, "rb") as file:
            table = pq.ParquetFile(file, pre_buffer=False)
            batches = table.iter_batches(1000, columns=[column], use_threads=False)
            for index, batch in enumerate(batches):
                yield (number, index), pa.Table.from_batches([batch])


def permanent_error(error: Exception, data_set: HubDataSet) -> UserError | None:
    """A failure that another try does not change, as one line with its fix; else None."""
    # Before the error itself, which the layers above the client may have changed
    if HubClient.failed:
        return HubClient.failed
    message = _explain(error, data_set)
    return UserError(f"{data_set.stage}.hub: {message}") if message else None


def _explain(error: Exception, data_set: HubDataSet) -> str:
    name, page, text = data_set.name, page_of(data_set.name), str(error)
    if isinstance(error, GatedRepoError):
        fix = f"accept its terms at {page} and set HF_TOKEN to a token of that account"
        return f"{name} is gated: {fix}"
    if isinstance(error, RevisionNotFoundError):
        fix = f"take a commit from {page}/commits/main"
        return f"{name} has no revision {data_set.revision}: {fix}"
    if isinstance(error, RepositoryNotFoundError):
        fix = "correct the name, or set HF_TOKEN to a token that may read it"
        return f"{name} does not exist, or is private: {fix}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            fix = "renew or unset HF_TOKEN, see https://huggingface.co/settings/tokens"
            return f"the hub refuses {HubClient.requested} (HTTP {status}): {fix}"
        fix = "check name and revision, and HF_ENDPOINT"
        return f"the hub answers HTTP {status} for {HubClient.requested}: {fix}"
    # `datasets` has no class for these two. It lists what there is after `Available` or `available`
    known = ", ".join(re.findall(r"'([^']+)'", text.partition("vailable")[2]))
    if text.startswith("BuilderConfig"):
        return f"{name} has no config {data_set.config}: set config to one of {known}"
    if text.startswith("Bad split"):
        return f"{name} has no split {data_set.split}: set split to one of {known}"
    return ""


# ---- JSON can escape half of a surrogate pair, "\ud83d", which is not text and stops Arrow

MENDED = "json_without_half_surrogates"
# The last is the half
ESCAPES = re.compile(
    r"\\\\|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\u[dD][89a-fA-F][\da-fA-F]{2}"
)


def _codec(name: str) -> codecs.CodecInfo | None:
    if name != MENDED:
        return None
    return codecs.CodecInfo(
        codecs.utf_8_encode,
        _mend,
        incrementaldecoder=codecs.getincrementaldecoder("utf-8"),
        name=MENDED,
    )


def _mend(content: Any, errors: str = "strict") -> tuple[str, int]:
    text = bytes(content).decode("utf-8", errors)
    if "\\ud" in text or "\\uD" in text:
        text = ESCAPES.sub(lambda escape: "?" if len(escape[0]) == 6 else escape[0], text)
    return text, len(content)
