"""The bare mathematics: right only in the hands of `safekv.cloak.transform`."""
