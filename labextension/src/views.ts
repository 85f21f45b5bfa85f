/** What Lab shares with dpc_jupyter's notebook widgets: plain JavaScript there, so its types are here. */

// @ts-expect-error: plain JavaScript
import { Client as client } from '../../dpc_jupyter/jupyter/widgets/client.js';
// @ts-expect-error: plain JavaScript
import * as dom from '../../dpc_jupyter/jupyter/widgets/dom.js';
// @ts-expect-error: plain JavaScript
import * as format from '../../dpc_jupyter/jupyter/widgets/format.js';
// @ts-expect-error: plain JavaScript
import { hostPicker as picker } from '../../dpc_jupyter/jupyter/widgets/host_picker.js';
// @ts-expect-error: plain JavaScript
import { nodePanel as panel } from '../../dpc_jupyter/jupyter/widgets/node_panel.js';

import type { IClient, IHost, Translate, View } from './contract';

type Child = Node | string | false | null;
type Props = Record<string, string | boolean | null | ((event: any) => void)>;

export const Client = client as new (send: (message: object) => void, options: { t: Translate }) => IClient;
export const hostPicker = picker as View;
export const nodePanel = panel as View;

export const h = dom.h as (tag: string, props: Props | null, ...children: Child[]) => HTMLElement;
export const update = dom.update as (container: HTMLElement, nodes: Child[]) => void;
export const mark = dom.mark as (state: IHost['state'], text: string) => HTMLElement;

export const hostState = format.hostState as (host: IHost, t: Translate) => string;
export const tokensPerSecond = format.tokensPerSecond as (rate: number, t: Translate) => string;
export const line = format.line as (...parts: (string | undefined)[]) => string;
