"""What a driver has configured: event counters, notification blocks, the queue format, and the queues themselves."""

from collections.abc import Callable
from functools import partial
from typing import Any

from machine.devices.dma import Dma
from machine.devices.gvnic.descriptor import DQO_QPL, DQO_RDA, GQI_QPL, Limits
from machine.devices.gvnic.dqo import DqoReceive, DqoTransmit
from machine.devices.gvnic.gqi import GqiReceive, GqiTransmit
from machine.devices.gvnic.notification import NotificationBlock
from machine.devices.gvnic.page_lists import RAW, Buffers, OffsetBuffers, PageLists, RegisteredBuffers
from machine.devices.gvnic.queue import Queue, ReceiveQueue, Settings, Surroundings, TransmitQueue
from machine.net.port import NetworkPort

BLOCK_DOORBELLS, TRANSMIT_DOORBELLS, RECEIVE_DOORBELLS = 0x000, 0x100, 0x200
"""Where the doorbells of each kind begin in BAR2, in 32-bit words."""


class Resources:
    """Exists from CONFIGURE_DEVICE_RESOURCES to DECONFIGURE_DEVICE_RESOURCES or a reset.

    `counters` is the address of the event counters; block i uses the MSI-X vector `first_vector + i`.
    """

    def __init__(
        self,
        dma: Dma,
        port: NetworkPort,
        notify: Callable[[int], object],
        *,
        queue_format: int,
        counters: int,
        blocks: int,
        first_vector: int,
    ) -> None:
        self._dma = dma
        self._port = port
        self.format = queue_format
        self._counters = counters
        self.blocks = [NotificationBlock(first_vector + number, notify) for number in range(blocks)]
        self.transmit: dict[int, TransmitQueue] = {}
        self.receive: dict[int, ReceiveQueue] = {}

    @property
    def out_of_order(self) -> bool:
        """Whether the queue format is one of the DQO ones."""
        return self.format in (DQO_RDA, DQO_QPL)

    @property
    def in_pages(self) -> bool:
        """Whether the queue format wants buffers in registered pages."""
        return self.format in (GQI_QPL, DQO_QPL)

    @property
    def management_vector(self) -> int:
        """The MSI-X vector behind those of the blocks: link changes and requests for a reset."""
        return self.blocks[-1].vector + 1

    def create_transmit(self, settings: Settings, lists: PageLists) -> tuple[int, int]:
        """Add a queue; its doorbell's and its event counter's index. BadAddress, Refused."""
        counter = settings.identity
        around = self._surroundings(settings, lists, counter)
        around.count(0)
        kind = DqoTransmit if self.out_of_order else GqiTransmit
        self.transmit[settings.identity] = kind(settings, around)
        return TRANSMIT_DOORBELLS + settings.identity, counter

    def create_receive(self, settings: Settings, lists: PageLists) -> tuple[int, int]:
        """Add a queue; its doorbell's and its event counter's index. BadAddress, Refused."""
        counter = Limits.QUEUES + settings.identity
        around = self._surroundings(settings, lists, counter)
        around.count(0)
        kind = DqoReceive if self.out_of_order else GqiReceive
        self.receive[settings.identity] = kind(settings, around)
        return RECEIVE_DOORBELLS + settings.identity, counter

    def uses(self, page_list: int) -> bool:
        """Whether any queue's buffers are in the list."""
        queues: list[Queue] = [*self.transmit.values(), *self.receive.values()]
        return any(queue.settings.page_list == page_list for queue in queues)

    def _surroundings(self, settings: Settings, lists: PageLists, counter: int) -> Surroundings:
        buffers: Buffers = self._dma
        if settings.page_list != RAW:
            pages = lists.pages(settings.page_list)
            buffers = (RegisteredBuffers if self.out_of_order else OffsetBuffers)(self._dma, pages)
        count = partial(self._count, self._counters + 4 * counter)
        return Surroundings(self._dma, self._port, buffers, self.blocks[settings.block], count)

    def _count(self, at: int, value: int) -> None:
        self._dma.write(at, value.to_bytes(4, "big"))

    def save(self) -> dict[str, Any]:
        """Plain data for `restore`."""
        return {
            "format": self.format,
            "counters": self._counters,
            "blocks": [block.save() for block in self.blocks],
            "transmit": [queue.save() for queue in self.transmit.values()],
            "receive": [queue.save() for queue in self.receive.values()],
        }

    @classmethod
    def restore(
        cls,
        state: dict[str, Any],
        dma: Dma,
        port: NetworkPort,
        notify: Callable[[int], object],
        lists: PageLists,
    ) -> "Resources":
        """What `save` told of, with the page lists that its queues use."""
        made = cls(
            dma,
            port,
            notify,
            queue_format=state["format"],
            counters=state["counters"],
            blocks=len(state["blocks"]),
            first_vector=state["blocks"][0][0],
        )
        for block, saved in zip(made.blocks, state["blocks"], strict=True):
            block.load(saved)
        for saved in state["transmit"]:
            settings = Settings(*saved["settings"])
            around = made._surroundings(settings, lists, settings.identity)
            sender = (DqoTransmit if made.out_of_order else GqiTransmit)(settings, around)
            sender.load(saved)
            made.transmit[settings.identity] = sender
        for saved in state["receive"]:
            settings = Settings(*saved["settings"])
            around = made._surroundings(settings, lists, Limits.QUEUES + settings.identity)
            receiver = (DqoReceive if made.out_of_order else GqiReceive)(settings, around)
            receiver.load(saved)
            made.receive[settings.identity] = receiver
        return made
