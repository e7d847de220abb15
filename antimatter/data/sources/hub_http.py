"""huggingface_hub's HTTP client with all the retries: above it, `datasets` sees complete responses,
or one error after many tries.
"""

import re
import time
from typing import Any, ClassVar

from huggingface_hub.errors import OfflineModeIsEnabled

# huggingface_hub's own export, which keeps its name when the package behind it changes
from huggingface_hub.utils import httpx, parse_ratelimit_headers  # type: ignore[attr-defined]

from antimatter import retries
from antimatter.data.sources.config import HubDataSet
from antimatter.errors import UserError
from antimatter.progress import StatusLine
from antimatter.retries import Backoff, GaveUp

TRIES = 20  # of one request, then the run ends: about a quarter of an hour
# Until the hub has answered once. Before that, a failure is probably a wrong setting
FIRST_TRIES = 3
FIRST_PAUSE = 1.0  # seconds before the second try; each pause is twice the one before ...
LONGEST_PAUSE = 60.0  # ... up to this, unless the hub asks for more
TIMEOUT = 30.0  # seconds without a byte
TEMPORARY = {408, 429, 500, 502, 503, 504}  # HTTP statuses that another try may change


class HubClient(httpx.Client):
    """An HTTP client with retries and exponential backoff. It also reads the body, so that a
    connection that breaks in the middle of it is retried too.

    The state belongs to the class, because huggingface_hub creates the clients.
    """

    data_set: ClassVar[HubDataSet]
    reached: ClassVar[bool] = False  # the hub has answered
    # The error after the last try. Kept, because the layers above may swallow it
    failed: ClassVar[UserError | None] = None
    requested: ClassVar[str] = ""  # the file of the last request

    @classmethod
    def begin(cls, data_set: HubDataSet) -> None:
        """Starts with a data set: no request of it has failed yet."""
        cls.data_set, cls.failed = data_set, None

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        HubClient.requested = re.sub(
            r"^/(api/)?datasets/|/(resolve|tree|revision)/[0-9a-f]{40}", "", request.url.path
        )
        request.extensions["timeout"] = httpx.Timeout(TIMEOUT).as_dict()
        backoff = Backoff(TRIES, FIRST_PAUSE, LONGEST_PAUSE)
        while HubClient.failed is None:
            asked = 0.0
            try:
                response = super().send(request, **{**options, "stream": False})
                HubClient.reached = True
                fault = _fault(request, response)
                if not fault:
                    return response
                asked = _asked_wait(response)
            except OfflineModeIsEnabled:
                instead = HubClient.data_set.instead
                _fail(f"HF_HUB_OFFLINE forbids the network: unset it, or {instead}")
                break
            except httpx.UnsupportedProtocol:
                address, fix = str(request.url)[:60], "correct HF_ENDPOINT, or unset it"
                _fail(f"{address} does not begin with https:// or http://: {fix}")
                break
            except (httpx.TransportError, httpx.DecodingError) as error:
                fault = f"{type(error).__name__}: {first_line(error)}"
            _wait(backoff, asked, fault, request.url.host)
        # For the layers above, which know errors of the network
        raise OSError(str(HubClient.failed))


def first_line(error: Exception) -> str:
    """What an error says, short enough for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _wait(backoff: Backoff, asked: float, fault: str, host: str) -> None:
    """Waits for the next try, or sets HubClient.failed if there is none."""
    backoff.tries = TRIES if HubClient.reached else FIRST_TRIES
    requested, data_set = HubClient.requested, HubClient.data_set
    try:
        pause = backoff.pause(asked)
    except GaveUp as reason:
        if HubClient.reached:
            fix = "what was read is kept, run again later to resume"
            _fail(f"{requested}: {fault}; {reason}: {fix}")
        else:
            fix = f"check the network and HF_ENDPOINT, or {data_set.instead}"
            _fail(f"{host} cannot be reached ({fault}): {fix}")
        return
    following = f"try {backoff.failures + 1} of {backoff.tries} in {pause:.0f} s"
    StatusLine().log(f"{data_set.stage}: {requested}: {fault}; {following}")
    time.sleep(pause)


def _fail(message: str) -> None:
    HubClient.failed = UserError(f"{HubClient.data_set.stage}.hub: {message}")


def _fault(request: httpx.Request, response: httpx.Response) -> str:
    """What is wrong with a response that another try may change."""
    if response.status_code in TEMPORARY:
        return f"HTTP {response.status_code} {response.reason_phrase}"
    bounds = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
    if bounds and response.is_success:
        length = int(bounds[2]) - int(bounds[1]) + 1
        if len(response.content) != length:
            return f"{len(response.content):,} bytes came instead of {length:,}"
    return ""


def _asked_wait(response: httpx.Response) -> float:
    """Seconds that the hub asks to wait."""
    if header := response.headers.get("retry-after"):
        return retries.retry_after(header, time.time())
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit and not limit.remaining else 0.0
