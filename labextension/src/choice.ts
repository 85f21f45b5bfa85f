/** The notebook's choice as its file keeps it: metadata `dpc: {host, name, model}`. */

import { type IChosen, type IHost, LOCAL } from './contract';

export const METADATA_KEY = 'dpc';

export interface IChoice {
  host: string;
  name: string;
  model: string | null;
}

const NODE_ID = /^dpc-node-[0-9a-f]{32}$/;
const LENGTH_LIMIT = 200;

/** The choice in a notebook's metadata, or null. The file may be a stranger's: nothing in it is taken on trust. */
export function readChoice(metadata: unknown): IChoice | null {
  const { host, name, model } = (metadata ?? {}) as Record<string, unknown>;
  if (typeof host !== 'string' || (host !== LOCAL && !NODE_ID.test(host))) {
    return null;
  }
  return { host, name: line(name) ?? host, model: line(model) };
}

function line(text: unknown): string | null {
  return typeof text === 'string' && text ? text.replace(/\p{C}/gu, ' ').slice(0, LENGTH_LIMIT) : null;
}

/** What to keep of the kernel's choice; null for the one that every kernel begins with. */
export function toChoice(chosen: IChosen): IChoice | null {
  return isDefault(chosen) ? null : { host: chosen.id, name: chosen.name, model: chosen.model };
}

function isDefault(chosen: IChosen): boolean {
  return chosen.id === LOCAL && chosen.model === null;
}

export type Restoring = { do: 'nothing' } | { do: 'choose'; choice: IChoice } | { do: 'tell'; name: string };

/**
 * What to do about a saved choice when a kernel is met.
 *
 * A kernel that has a choice keeps it; but what it has read from the file may be older than the page's, which is not
 * saved yet. A host that this machine never met is not linked to: a notebook from a stranger must not make its reader's
 * machine call anybody.
 */
export function restoring(saved: IChoice | null, chosen: IChosen, hosts: readonly IHost[]): Restoring {
  if (chosen.restored) {
    saved ??= { host: LOCAL, name: LOCAL, model: null };
    if (saved.host === chosen.id && saved.model === chosen.model) {
      return { do: 'nothing' };
    }
  } else if (saved === null || !isDefault(chosen)) {
    return { do: 'nothing' };
  }
  const isKnown = hosts.some(host => host.id === saved.host);
  return isKnown ? { do: 'choose', choice: saved } : { do: 'tell', name: saved.name };
}

/** Whether a host is linked now, so that to choose it calls nobody. */
export function isLinked(id: string, hosts: readonly IHost[] = []): boolean {
  return hosts.some(host => host.id === id && (host.state === 'ready' || host.state === 'busy'));
}
