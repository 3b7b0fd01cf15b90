"""Makes few-shot tasks from data that ship inside Python packages: digits.npz, fertility.npz and elnino.npz.

python examples/public.py                                                  # needs scikit-learn, for digits
python train.py data=arrays data.path=digits.npz data.ways=3 shots=1       # handwritten digits
python train.py data=arrays data.path=fertility.npz shots=5 method=maml    # a country's fertility by year
python train.py data=arrays data.path=elnino.npz data.{train,val,test}_queries=5 shots=5 method=lstm
"""

import numpy as np
from sklearn.datasets import load_digits
from statsmodels.datasets import elnino, fertility

digits = load_digits()
split = np.array(["train"] * 4 + ["val"] * 3 + ["test"] * 3)[digits.target]
np.savez("digits.npz", x=digits.images[:, None], y=digits.target, split=split)

rates = fertility.load_pandas().data.set_index("Country Name").filter(regex=r"\d{4}").stack().dropna()
country, year = rates.index.get_level_values(0), rates.index.get_level_values(1)
np.savez(
    "fertility.npz", x=year.to_numpy(float)[:, None], y=rates.to_numpy()[:, None], task=country.to_numpy(str)
)

# the temperature of the sea in each month of a year; the year is the task
temperature = elnino.load_pandas().data.set_index("YEAR").to_numpy()
month = np.tile(np.arange(12.0), len(temperature))
np.savez("elnino.npz", x=month[:, None], y=temperature.reshape(-1, 1), task=np.arange(len(month)) // 12)
