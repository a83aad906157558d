"""What the emulated machines of the tests have in common: the kernel's modules, the first program, QEMU, the guest's
port."""

import lzma
import os
import pathlib
import selectors
import subprocess
import time

# What CILMARK_TEST_SLOWDOWN of the tests is in an emulated machine.
SLOWDOWN = "10"


def output_of(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def modules_of(kernel):
    """The directory of its modules."""
    return next((kernel / "lib/modules").iterdir())


def needed(modules, names):
    """The files of these modules and of what they need, in the order in which to load them. Of Debian's kernels some
    have a module built in, which then has none."""
    order = []
    for name in names:
        for line in output_of("modprobe", "-d", modules.parents[2], "-S", modules.name, "--show-depends", name).splitlines():
            kind, _, path = line.strip().partition(" ")
            if kind == "insmod" and pathlib.Path(path) not in order:
                order.append(pathlib.Path(path))
    return order


def unpack(module, directory):
    """Copies a module there, as each insmod and modprobe reads it; its name."""
    data = module.read_bytes()
    name = module.name.removesuffix(".xz")
    (directory / name).write_bytes(lzma.decompress(data) if module.suffix == ".xz" else data)
    return name


def archive(tree):
    """A directory as an initramfs; its path."""
    path = tree.with_suffix(".cpio")
    names = "\n".join(str(entry.relative_to(tree)) for entry in tree.rglob("*"))
    with path.open("wb") as file:
        command = ["busybox", "cpio", "-o", "-H", "newc", "-R", "0:0"]
        subprocess.run(command, cwd=tree, check=True, input=names.encode(), stdout=file, stderr=subprocess.DEVNULL)
    return path


def qemu(kernel, initramfs, console, options, command_line, *devices):
    """The command that boots it. What the guest writes to its port comes out of stdout."""
    return [
        # Whatever becomes of this process, the guest goes with it.
        *["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"],
        *["-accel", options.accel, "-cpu", "max", "-smp", str(options.cpus), "-m", options.memory],
        *["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        *["-kernel", str(next((kernel / "boot").glob("vmlinuz-*"))), "-initrd", str(initramfs)],
        *["-append", f"console=ttyS0 oops=panic panic=-1 {command_line}"],
        *["-serial", f"file:{console}"],
        *["-device", "virtio-serial-pci", "-chardev", "file,id=port,path=/dev/stdout"],
        *["-device", "virtserialport,chardev=port"],
        *devices,
    ]


class Guest:
    """A machine that runs until this ends."""

    def __init__(self, command):
        # Ctrl-C is for this process, which ends the guest.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def lines(self, seconds, silence):
        """Its lines as they come; a TimeoutError if none comes for too long, or all take longer than that."""
        deadline = time.monotonic() + seconds
        stream = self._process.stdout
        selector = selectors.DefaultSelector()
        selector.register(stream, selectors.EVENT_READ)
        rest = b""
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(min(left, silence)):
                raise TimeoutError(f"no end within {seconds} s" if left <= silence else f"silent for {silence} s")
            data = os.read(stream.fileno(), 1 << 16)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
