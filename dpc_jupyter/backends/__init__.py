"""Where tokens come from: engines behind one small contract."""
