"""The story that `safekv demo` plays, and its report."""
