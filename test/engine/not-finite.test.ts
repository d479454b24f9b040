// Values that are no finite numbers on the CPU: the cases of every device.

import { notFiniteCases } from './not-finite-cases.js';

notFiniteCases({ cpu: { threads: 1 } });
