"""Values that everything else speaks in. Imports nothing of ours, does nothing."""
