"""Makes sensors.npz, a synthetic data set: machines that vibrate, each recorded by three sensors.

    python examples/sensors.py
    python train.py data=arrays data.path=sensors.npz backbone=conv1d shots=1

A class is a machine: two tones, of its own frequencies, whose strengths differ from sensor to sensor. A
recording begins at any moment, is louder or softer, and noisy.
"""

import numpy as np

MACHINES, RECORDINGS, SENSORS, LENGTH = 100, 40, 3, 64
random = np.random.default_rng(0)
time = np.arange(LENGTH) / LENGTH

frequency = random.uniform(2, 12, (MACHINES, 1, 2, 1))
strength = random.normal(size=(MACHINES, SENSORS, 2, 1))
x = []
for _ in range(RECORDINGS):
    phase = random.uniform(0, 2 * np.pi, (MACHINES, 1, 2, 1))
    tones = strength * np.sin(2 * np.pi * frequency * time + phase)  # (machines, sensors, tones, length)
    volume = random.uniform(0.7, 1.3, (MACHINES, 1, 1))
    x.append(volume * tones.sum(2) + 1.5 * random.normal(size=(MACHINES, SENSORS, LENGTH)))
y = np.tile([f"machine {number:02}" for number in range(MACHINES)], RECORDINGS)
np.savez("sensors.npz", x=np.concatenate(x).astype(np.float32), y=y)
