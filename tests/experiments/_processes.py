"""Real processes of the main job."""

import os
import socket
import subprocess
import sys
import time

ARGUMENTS = ("--model", "lenet_300_100", "--epochs", "2", "--retrain-epochs", "1", "--cycles", "2")


def start(folder, *arguments, devices=1):
    """A process that trains in a folder, on simulated devices."""
    fixed = ("-m", "experiments.run", *ARGUMENTS, "--run-dir", str(folder))
    return subprocess.Popen(
        [sys.executable, *fixed, *arguments],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def environment(devices=1):
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }


def start_two(folder, options, *, devices=1):
    """Two processes of one run, each with its own options beside the shared ones."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        address = f"localhost:{server.getsockname()[1]}"
    return [
        start(folder, "--coordinator", address, "--process-id", str(index), *own, devices=devices)
        for index, own in enumerate(options)
    ]


def wait_for(happened, processes, seconds=240):
    """Waits until something has happened; fails if a process ends before."""
    deadline = time.monotonic() + seconds
    while not happened():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ends(processes, seconds=240):
    """Exit status and output of each."""
    try:
        outputs = [" ".join(p.communicate(timeout=seconds)[0].split()) for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, out) for p, out in zip(processes, outputs, strict=True)]
