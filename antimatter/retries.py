"""How long a server asks to wait before the next try: the header Retry-After (RFC 9110, 10.2.3)."""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

# Seconds. A server that asks for more is not waited for: nobody knows what a silent program does.
# The hub's limits reset within 300
LONGEST = 600.0


def asked(value: str, now: float) -> float:
    """Seconds that the header's value asks to wait; 0 if it is empty, in the past or damaged.

    Args:
        now: seconds since 1970.
    """
    if re.fullmatch(r"\s*[0-9]+\s*", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:  # "-0000": UTC, of an unknown place
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0


def span(seconds: float) -> str:
    """For people, in the largest unit of which there are several."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds > 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} seconds"
