"""The dead-letter queue of a run: storing, searching, mending and replaying what could not be delivered."""
