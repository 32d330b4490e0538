"""What an attacker does; sees captured tensors, an endpoint and public knowledge, never our keys.

Timing attacks on an endpoint: `target`, `timing`, `prompt_recovery`. Attacks on stolen KV, usable
on anybody's: `capture` and `dump` bring it in, `collision`, `inversion`, `inverter` and
`injection` read plain caches, `template`, `chosen`, `membership`, `fused` and `channels`
protected ones. See docs/attacks.md. Importing this package loads none of them.
"""
