"""A Lightning training under the checks: the user's own script or function, run on the ranks.

`target` runs it, `capture` stands between it and Lightning's Trainer, `describe` says what it is,
`watch` trains it beside its twin, which `replay` makes of what the Trainer did, and `phases` saves
and loads it.
"""
