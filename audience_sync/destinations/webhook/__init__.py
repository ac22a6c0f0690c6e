"""The webhook destination: a signed POST of messages about changes to a URL of the configuration.

`webhook_messages` makes the messages, `webhook_signature` signs a request, and `webhook_client` sends it.
"""
