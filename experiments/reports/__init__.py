"""What a run leaves behind: its folder, its log, its table and its pictures."""

from experiments.reports._before import load_before as load_before
from experiments.reports._before import save_before as save_before
from experiments.reports._commit import commit as commit
from experiments.reports._files import written_whole as written_whole
from experiments.reports._folder import Mark as Mark
from experiments.reports._folder import RunFolder as RunFolder
from experiments.reports._log import Log as Log
from experiments.reports._mask import draw_weight_histogram as draw_weight_histogram
from experiments.reports._mask import print_mask_table as print_mask_table
from experiments.reports._pictures import draw as draw
from experiments.reports._pictures import draw_layers as draw_layers
from experiments.reports._profile import Profile as Profile
from experiments.reports._progress import Progress as Progress
from experiments.reports._speed import Speed as Speed
from experiments.reports._table import COLUMNS as COLUMNS
from experiments.reports._table import about as about
from experiments.reports._table import columns as columns
from experiments.reports._table import print_table as print_table
from experiments.reports._table import summary_rows as summary_rows
