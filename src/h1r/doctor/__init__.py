"""Doctor: is this checkpoint what it says it is, and will this run fit?

    for check in examine("runs/quickstart/model"):
        print(check.name, check.ok, check.detail, check.cure)

`clone` and `first_rows` ask it of a training run, on its model in small and on its data.

`numbers` looks at weights and logits, `words` at tokenizer and template, `room` at sandbox, memory and disk. A check
that cannot be made here (no transformers, no tokenizer) has ok None and says why.
"""

from h1r.doctor.check import Check
from h1r.doctor.clone import clone, first_rows
from h1r.doctor.examine import examine
from h1r.doctor.room import preflight

__all__ = ["Check", "clone", "examine", "first_rows", "preflight"]
