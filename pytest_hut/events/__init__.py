"""What can happen to a slot, as typed events, and the journal they are appended to."""
