"""The demo task: support tickets and the JSON that a shop's software wants to see."""
