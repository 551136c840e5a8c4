"""evals: benchmarks in, figures with intervals out.

`suites/` holds one file per benchmark; `run` draws what the generation store lacks and scores it, `rescore` scores
again without drawing; `results` and `statistics` say what was found and how sure that is; `tables` prints it. The
scorer, the generator and the template are arguments, so any model and any verifier will do.
"""

from h1r.evals import figures, lab, protocol, scoring, statistics
from h1r.evals.chain import Chain, rescore_chain, run_chain
from h1r.evals.episodes import Episodes, Setting, rescore_episodes, run_episodes
from h1r.evals.published import GROUP_MEANS, GROUPS, PUBLISHED, group_mean
from h1r.evals.results import Comparison, Flip, Item, Result, by, compare, flips, groups, load, result, save
from h1r.evals.run import as_prompt, rescore, run
from h1r.evals.statistics import Interval, Paired
from h1r.evals.store import Store, sample_key
from h1r.evals.suite import Suite
from h1r.evals.suites import SUITES
from h1r.evals.tables import comparison_rows, group_score, markdown, plain, rows, verdict

__all__ = [
    "GROUPS",
    "GROUP_MEANS",
    "PUBLISHED",
    "SUITES",
    "Chain",
    "Comparison",
    "Episodes",
    "Flip",
    "Interval",
    "Item",
    "Paired",
    "Result",
    "Setting",
    "Store",
    "Suite",
    "as_prompt",
    "by",
    "compare",
    "comparison_rows",
    "figures",
    "flips",
    "group_mean",
    "group_score",
    "groups",
    "lab",
    "load",
    "markdown",
    "plain",
    "protocol",
    "rescore",
    "rescore_chain",
    "rescore_episodes",
    "result",
    "rows",
    "run",
    "run_chain",
    "run_episodes",
    "sample_key",
    "save",
    "scoring",
    "statistics",
    "verdict",
]
