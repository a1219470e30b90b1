"""A connection of the explorer's page to its kernel that sends every message at once."""

from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection


class PromptConnection(ZMQChannelsWebsocketConnection):
    """Jupyter's, without Nagle's algorithm.

    A move of a slider is answered by four small messages. Nagle's algorithm holds the second back
    until the browser has acknowledged the first, and a browser waits some 40 ms with that.
    """

    def connect(self) -> Any:
        """Begin to pass messages on."""
        self.websocket_handler.set_nodelay(True)
        return super().connect()
