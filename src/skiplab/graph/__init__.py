"""A captured network: its operators and data flow, running it, and turning it back into code."""
