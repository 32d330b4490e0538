"""Where settings come from: defaults, safekv.toml, environment, flags."""
