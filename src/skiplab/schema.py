"""The versioned JSON of `find` and `census`. Numbers of paths are decimal strings, since they outgrow 64 bits."""

import math
from dataclasses import asdict
from typing import Any

from skiplab.paths import Census
from skiplab.program import Program
from skiplab.skips import Skips

FIND = "skiplab.find/2"
CENSUS = "skiplab.census/1"


def find_json(model: str, program: Program, skips: Skips, census: Census) -> dict[str, Any]:
    """What `skiplab find --json` prints."""
    return {
        "schema": FIND,
        "model": model,
        "capture": {
            "difference": program.difference if math.isfinite(program.difference) else None,
            "dynamic_batch": program.dynamic_batch,
            "training": program.training,
            "unfollowed": list(program.unfollowed),
            "fingerprint": program.fingerprint,
        },
        "skips": [asdict(skip) for skip in skips],
        "apart": [asdict(each) for each in skips.apart],
        "census": census_fields(census),
    }


def census_json(model: str, census: Census) -> dict[str, Any]:
    """What `skiplab census --json` prints."""
    return {"schema": CENSUS, "model": model, **census_fields(census)}


def census_fields(census: Census) -> dict[str, Any]:
    """A census as JSON, under the names of its attributes."""
    fields = asdict(census)
    fields["paths"] = str(census.paths)
    for name in ("histogram", "weight_histogram"):
        fields[name] = {str(k): str(n) for k, n in sorted(fields[name].items())}
    fields["counted"] = list(census.counted)
    fields["witness"] = fields.pop("fewest")["steps"]
    return fields
