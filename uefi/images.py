"""Images in guest memory: the files that LoadImage has loaded, and the protocols that tell of them."""

from typing import TYPE_CHECKING, Any

from loader import pe
from loader.errors import LoaderError
from loader.resources import hii_package_list
from uefi import guids
from uefi import memory_types as mt
from uefi.memory_map import PAGE
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

APPLICATION, BOOT_DRIVER, RUNTIME_DRIVER = 10, 11, 12
_CODE_TYPES = {APPLICATION: mt.LOADER_CODE, BOOT_DRIVER: mt.BOOT_CODE, RUNTIME_DRIVER: mt.RUNTIME_CODE}
_DATA_TYPES = {APPLICATION: mt.LOADER_DATA, BOOT_DRIVER: mt.BOOT_DATA, RUNTIME_DRIVER: mt.RUNTIME_DATA}
# EFI_LOADED_IMAGE_PROTOCOL (UEFI 2.10, 9.1)
_LOADED_IMAGE_SIZE, _UNLOAD, _OPTIONS_SIZE, _OPTIONS = 0x60, 0x58, 0x30, 0x38
_LOADED_IMAGE_REVISION = 0x1000


class Image:
    """One loaded image. `name` is for people; `data` stays for crash reports, which look symbols up in it."""

    __slots__ = (
        *("_pe", "base", "data", "denied", "entry", "exit_data", "exit_size", "file_path", "handle"),
        *("loaded_image", "name", "pages", "path", "started", "subsystem"),
    )

    def __init__(self, name: str, data: "bytes | memoryview", image: pe.PeImage | None) -> None:
        self.name = name
        self.data = data
        self._pe = image
        self.handle = 0
        self.base = 0
        self.pages = 0
        self.entry = 0
        self.subsystem = image.subsystem if image else BOOT_DRIVER
        self.started = False
        self.denied = False
        self.exit_size = 0
        self.exit_data = 0
        self.loaded_image = 0
        self.path = 0
        self.file_path = 0

    def __getstate__(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in self.__slots__}
        return {**state, "_pe": None}

    @property
    def pe(self) -> pe.PeImage | None:
        """The file's headers, None for the firmware itself. Read again when somebody asks behind a restored snapshot."""
        if self._pe is None and self.data:
            self._pe = pe.parse(self.data)
        return self._pe

    @property
    def is_application(self) -> bool:
        """Whether the image goes away when its entry point returns."""
        return self.subsystem == APPLICATION


class Images:
    """Loads images and keeps account of them."""

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        self._images: dict[int, Image] = {}
        self.current = 0
        self.firmware_handle = 0
        self.problem = ""
        """Why the last image was refused, for people: EFI_STATUS says little."""

    def add_firmware_image(self) -> None:
        """The firmware's own image handle: the parent of the first image and the agent of HandleProtocol."""
        image = Image("firmware", b"", None)
        self._describe(image, 0, None, (0, 0), mt.BOOT_CODE, mt.BOOT_DATA)
        image.started = True
        self.firmware_handle = self.current = image.handle

    def get(self, handle: int) -> Image | None:
        """The image behind a handle."""
        return self._images.get(handle)

    def all(self) -> list[Image]:
        """Every image that is loaded, in the order of loading."""
        return list(self._images.values())

    def forget_all(self) -> None:
        """Let go of the files of all images: the machine is off."""
        self._images.clear()

    def containing(self, address: int) -> Image | None:
        """The image whose memory holds `address`."""
        for image in self._images.values():
            if image.base <= address < image.base + image.pages * PAGE:
                return image
        return None

    def load(
        self, data: "bytes | memoryview", parent: int, path: bytes | None, device: tuple[int, int], name: str = ""
    ) -> tuple[int, Image | None]:
        """Load a file's bytes: (status, image). SECURITY_VIOLATION comes with an image that cannot be started.

        `path` is the whole device path; `device` the handle that its first so many bytes name. Raises EfiError.
        """
        firmware = self._firmware
        self.problem = ""
        try:
            parsed = pe.parse(data)
            image = Image(name or self._name(path), data, parsed)
            base, pages = self._place(parsed)
            try:
                memory = firmware.computer.memory
                window = memory.window(base, pages * PAGE)
                memory.fill(base, pages * PAGE)
                parsed.load_into(window, base)
                memory.wrote(base, pages * PAGE)
            except LoaderError:
                firmware.memory_map.free(base, pages)
                raise
        except LoaderError as error:
            self.problem = str(error)
            raise EfiError(Status.UNSUPPORTED) from None
        firmware.computer.engine.invalidate(base, pages * PAGE)
        image.base, image.pages, image.entry = base, pages, base + parsed.entry_rva
        code, kind = _CODE_TYPES[parsed.subsystem], _DATA_TYPES[parsed.subsystem]
        status = firmware.authorize(image, path)
        image.denied = status != Status.SUCCESS
        self._describe(image, parent, path, device, code, kind)
        packages = hii_package_list(parsed, window)
        if packages is not None:
            # UEFI 2.10, 7.4.1: an image with HII resources has them as a protocol on its handle.
            firmware.handles.install(image.handle, guids.HII_PACKAGE_LIST_PROTOCOL, base + packages[0])
        return status, image

    def _place(self, parsed: pe.PeImage) -> tuple[int, int]:
        """Pages for an image: at its preferred base where it insists, as high as possible otherwise."""
        memory_map = self._firmware.memory_map
        pages = -(-parsed.size_of_image // PAGE)
        code = _CODE_TYPES.get(parsed.subsystem, mt.LOADER_CODE)
        if parsed.needs_preferred_base:
            try:
                memory_map.allocate_at(parsed.image_base, pages, code)
            except EfiError:
                self.problem = (
                    f"the image has no relocations and runs at {parsed.image_base:#x} only "
                    f"({parsed.size_of_image:#x} bytes), which is taken or not RAM; try more --memory"
                )
                raise EfiError(Status.OUT_OF_RESOURCES) from None
            return parsed.image_base, pages
        alignment = max(PAGE, parsed.section_alignment)
        try:
            return memory_map.allocate(pages, code, alignment=alignment), pages
        except EfiError:
            self.problem = f"no room for an image of {parsed.size_of_image:#x} bytes; try more --memory"
            raise

    @staticmethod
    def _name(path: bytes | None) -> str:
        from uefi.device_path import to_text

        return to_text.path_to_text(path) if path else "(memory)"

    def _describe(
        self, image: Image, parent: int, path: bytes | None, device: tuple[int, int], code: int, kind: int
    ) -> None:
        """Install EFI_LOADED_IMAGE_PROTOCOL and the loaded image's device path on a new handle."""
        firmware = self._firmware
        memory = firmware.memory
        device_handle, used = device
        if path:
            image.path = firmware.pool(len(path))
            memory.write(image.path, path)
            tail = path[used:]
            image.file_path = firmware.pool(len(tail))
            memory.write(image.file_path, tail)
        image.loaded_image = firmware.pool(_LOADED_IMAGE_SIZE)
        fields = (
            _LOADED_IMAGE_REVISION.to_bytes(8, "little"),
            parent.to_bytes(8, "little"),
            firmware.system_table.address.to_bytes(8, "little"),
            device_handle.to_bytes(8, "little"),
            image.file_path.to_bytes(8, "little"),
            bytes(8 + 8 + 8),  # reserved, no load options
            image.base.to_bytes(8, "little"),
            (image.pe.size_of_image if image.pe else 0).to_bytes(8, "little"),
            code.to_bytes(4, "little"),
            kind.to_bytes(4, "little"),
            bytes(8),  # Unload
        )
        memory.write(image.loaded_image, b"".join(fields))
        image.handle = firmware.handles.install(None, guids.LOADED_IMAGE_PROTOCOL, image.loaded_image)
        firmware.handles.install(image.handle, guids.LOADED_IMAGE_DEVICE_PATH_PROTOCOL, image.path)
        self._images[image.handle] = image

    def set_load_options(self, image: Image, options: bytes) -> None:
        """Give an image its load options: UCS-2 text with its NUL, as a shell passes them."""
        memory = self._firmware.memory
        buffer = self._firmware.pool(max(len(options), 1), mt.LOADER_DATA)
        memory.write(buffer, options)
        memory.write_u32(image.loaded_image + _OPTIONS_SIZE, len(options))
        memory.write_u64(image.loaded_image + _OPTIONS, buffer)

    def unload_function(self, image: Image) -> int:
        """The Unload member of EFI_LOADED_IMAGE_PROTOCOL."""
        return self._firmware.memory.read_u64(image.loaded_image + _UNLOAD)

    def unload(self, image: Image) -> None:
        """Take an image out of memory, its protocols and its openings with it."""
        firmware = self._firmware
        self._images.pop(image.handle, None)
        firmware.handles.forget_agent(image.handle)
        own = (guids.HII_PACKAGE_LIST_PROTOCOL, guids.LOADED_IMAGE_DEVICE_PATH_PROTOCOL, guids.LOADED_IMAGE_PROTOCOL)
        for guid in own:
            if firmware.handles.interface(image.handle, guid) is not None:
                firmware.handles.uninstall(image.handle, guid)
        for address in (image.loaded_image, image.path, image.file_path):
            if address:
                firmware.free_pool(address)
        if image.pages:
            firmware.memory_map.free(image.base, image.pages)
            firmware.computer.engine.invalidate(image.base, image.pages * PAGE)
