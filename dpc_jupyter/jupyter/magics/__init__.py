"""The magics: their options, what they do, and completion."""
