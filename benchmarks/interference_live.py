"""How far live observations can help: the noise of a repeated run, and the best that any linear correction can do.

Four live observations of an ordered pair at other shares correct the prediction at the shares left. The oracle takes
the second moments of the residuals from the very rows that are judged, which no predictor may: what it misses is not
in those observations. It bounds every linear correction from below; the predictor's own figure stands beside it.

    python benchmarks/interference_live.py [--out docs/results/interference-live.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isolation.interference import dataset
from isolation.interference.evaluate import Predictor, evaluate
from isolation.interference.mixtures import Array
from isolation.interference.observations import by_ordered_pair
from isolation.interference.rows import Group
from isolation.interference.splits import Split, Trial, one_file

DATA = Path(__file__).parent / "data" / "h100-colocation.json"
OBSERVATIONS = 4
DRAWS = 20


def repeat_noise(data: Path) -> Array:
    """Latency on fresh processes / latency in the file - 1, for every partner of every repeated co-run."""
    raw = json.loads(data.read_text())
    found = [
        again["mean"] / first["mean"] - 1.0
        for key, runs in raw.get("co_repeat", {}).items()
        if key in raw["co"]
        for again, first in zip(runs, raw["co"][key], strict=True)
    ]
    return np.asarray(found, dtype=float)


def residuals(trial: Trial) -> Array:
    """log(measured / predicted) of held-out pairs: (ordered pairs, settings of shares)."""
    rows = []
    for fold in trial.folds:
        model = trial.study.fit(fold.seen)
        pairs = [r.pair for i in fold.judged if (r := trial.study.rows[i]).group is Group.PAIRS]
        away = np.log([p.slowdown for p in pairs]) - model.pairs.predict(pairs).mean
        settings = sorted({p.shares for p in pairs})
        for places in by_ordered_pair(pairs).values():
            by_shares = {pairs[i].shares: float(away[i]) for i in places}
            rows.append([by_shares[s] for s in settings])
    return np.array(rows)


def oracle_p90(away: Array, seed: int = 0) -> float:
    """p90 of the error left when the moments are known, mean over draws of the observed settings."""
    moments = away.T @ away / len(away)
    rng, found = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        errors = []
        for row in away:
            seen = np.sort(rng.choice(len(row), OBSERVATIONS, replace=False))
            rest = np.setdiff1d(np.arange(len(row)), seen)
            gain = np.linalg.solve(moments[np.ix_(seen, seen)], moments[np.ix_(seen, rest)])
            errors.append(np.abs(np.expm1(row[seen] @ gain - row[rest])))
        found.append(float(np.quantile(np.concatenate(errors), 0.9)))
    return float(np.mean(found))


def measure(data: Path = DATA) -> dict[str, float]:
    """All figures, errors as fractions."""
    noise, trial = repeat_noise(data), one_file(dataset.load(data), Split.MODEL_OUT)
    away = residuals(trial)
    pairs = evaluate(trial).groups[Group.PAIRS] or {}
    ours, before = pairs.get(Predictor.PARTYWALL_4), pairs.get(Predictor.PARTYWALL)
    correlation = np.corrcoef(away.T)[np.triu_indices(away.shape[1], 1)]
    return {
        "repeat_p05": float(np.quantile(noise, 0.05)),
        "repeat_p95": float(np.quantile(noise, 0.95)),
        "repeat_abs_p90": float(np.quantile(np.abs(noise), 0.9)),
        "repeats": float(len(noise)),
        "without_p90": before.p90 if before else float("nan"),
        "with_4_p90": ours.p90 if ours else float("nan"),
        "oracle_4_p90": oracle_p90(away),
        "correlation_least": float(correlation.min()),
        "correlation_median": float(np.median(correlation)),
        "correlation_most": float(correlation.max()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="measurement file")
    parser.add_argument("--out", type=Path, help="also write the figures here")
    options = parser.parse_args(arguments)
    text = json.dumps({k: round(v, 4) for k, v in measure(options.data).items()}, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
