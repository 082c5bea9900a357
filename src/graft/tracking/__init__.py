"""The record: what a run leaves behind, through one small interface with several implementations."""
