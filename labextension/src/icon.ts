import { LabIcon } from '@jupyterlab/ui-components';

import svgstr from '../style/dpc.svg';

export const dpcIcon = new LabIcon({ name: 'dpc-jupyter:icon', svgstr });

/** For the launcher, which shows kernels by pictures. */
export const dpcIconUrl = `data:image/svg+xml,${encodeURIComponent(svgstr)}`;
