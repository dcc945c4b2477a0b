"""The supervisor's own look at sshd's listeners, once a pulse, by SOCK_DIAG."""

from __future__ import annotations

from ..netlink import SOCK_DIAG, Listening, listening, open_socket
from ..plain import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HUNG = 1.0  # seconds that a queue must not have drained for
AGAIN = 0.25  # between two looks while connections wait


class Queue:
    """An accept queue that holds connections and never got shorter for HUNG seconds: nobody accepts. Pure."""

    def __init__(self) -> None:
        self._length = 0
        self._since = 0.0
        self._hung = False

    def changed(self, length: int, now: float) -> bool:
        """Whether that begins with this look, or ends."""
        drained = not length or length < self._length
        before, hung = self._hung, self._hung
        if drained or not self._length:
            self._since, hung = now, False
        elif now - self._since >= HUNG:
            hung = True
        self._length, self._hung = length, hung
        return hung != before

    @property
    def suspect(self) -> bool:
        return bool(self._length) and not self._hung

    @property
    def hung(self) -> bool:
        return self._hung


def _places(found: Iterable[Listening]) -> tuple[tuple[bytes, int], ...]:
    return tuple(sorted((one.address, one.port) for one in found))


class Look:
    def __init__(self) -> None:
        """Raises OSError."""
        self._socket = open_socket(SOCK_DIAG)
        self._ports: tuple[int, ...] = ()
        self._queues: dict[tuple[bytes, int], Queue] = {}
        self._known: tuple[tuple[bytes, int], ...] = ()
        self._all: tuple[tuple[bytes, int], ...] = ()
        self.remember()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def remember(self) -> None:
        """A pass begins: whatever ports it will name, its watch starts from what there is now. Raises OSError."""
        self._all = _places(listening(self._socket))

    def watch(self, ports: tuple[int, ...]) -> None:
        if ports != self._ports:
            self._ports = ports
            self._known = tuple(place for place in self._all if place[1] in ports)

    def look(self, now: float) -> tuple[bool, bool]:
        """Whether the listeners are others than at the last look; whether a queue began or ceased to hang.

        Raises OSError.
        """
        found = listening(self._socket, self._ports)
        lengths: dict[tuple[bytes, int], int] = {}
        for one in found:  # with SO_REUSEPORT an address has several queues
            lengths[one.address, one.port] = lengths.get((one.address, one.port), 0) + one.queue
        self._queues = {key: self._queues.get(key) or Queue() for key in lengths}
        turned = [queue.changed(lengths[key], now) for key, queue in self._queues.items()]
        before, self._known = self._known, _places(found)
        return before != self._known, any(turned)

    @property
    def suspect(self) -> bool:
        """Connections wait: look again soon."""
        return any(queue.suspect for queue in self._queues.values())

    @property
    def hung(self) -> bool:
        return any(queue.hung for queue in self._queues.values())
