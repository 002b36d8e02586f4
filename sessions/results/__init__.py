"""Results that `--json` prints of recordings and measurements: one module per command, one class per JSON object.

One field is one key. `moe-watch schema` and docs/json.md show the descriptions. `None` is null: unknown, not recorded,
or infinite. `UNSET` is a key that is left out. Fields are in the order in which they are printed. Results of a run and
of a fit are in `moe_watch.routing.results`, results of checks, of models and of their memory beside what makes them.
"""
