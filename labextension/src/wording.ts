/** What the toolbar and the status bar say: text of a state, nothing else. */

import { type IHost, type IState, LOCAL, type Translate } from './contract';
import { hostState, line, tokensPerSecond } from './views';

/** How far the talk with a kernel has come. */
export type Phase =
  | 'none' // no kernel, or one that is not Python
  | 'connecting'
  | 'absent' // a Python kernel without dpc_jupyter
  | 'loading'
  | 'live';

export function chosenHost(state: IState): IHost | undefined {
  return state.hosts?.find(host => host.id === state.chosen?.id);
}

/** "anna", or "Local" in the user's language. */
export function hostName(state: IState, t: Translate): string {
  return !state.chosen || state.chosen.id === LOCAL ? t('Local') : state.chosen.name;
}

/** "anna · llama3-70b" */
export function choiceLabel(phase: Phase, state: IState, t: Translate): string {
  switch (phase) {
    case 'absent':
      return t('Load DPC');
    case 'loading':
      return t('Loading DPC…');
    default:
      return line(hostName(state, t), state.chosen?.model ?? chosenHost(state)?.models[0]?.model);
  }
}

/** The state of the chosen host, in words: what the dot says by its colour and shape. */
export function stateName(phase: Phase, state: IState, t: Translate): string {
  if (phase !== 'live') {
    return phase === 'absent' ? t('not loaded in this kernel') : t('not connected');
  }
  const host = chosenHost(state);
  return host ? hostState(host, t) : t('unreachable');
}

/** Lines of the toolbar button's tooltip. */
export function choiceTooltip(phase: Phase, state: IState, note: string, t: Translate): string {
  const lines = [t('Compute host of this notebook')];
  if (phase === 'absent') {
    lines[0] = t('This kernel has no dpc_jupyter yet: click to load it, then choose whose machine answers.');
  } else if (phase === 'live') {
    const host = chosenHost(state);
    const kind = host?.id === LOCAL ? '' : host?.kind;
    lines.push(line(hostName(state, t), stateName(phase, state, t), kind, host?.reason));
  }
  return [...lines, note].filter(Boolean).join('\n');
}

/** Why a node that listens lets nobody in though its owner may want it to: where the access file is wrong; else "". */
export function accessTrouble(state: IState, t: Translate): string {
  const error = state.node?.address ? state.access?.error : null;
  return error ? t('The access file is not valid, nobody is let in: %1', error) : '';
}

export interface IStatusText {
  main: string;
  sharing: string;
}

/** "anna · 64 tokens/s · 2 peers" and "Sharing off". */
export function statusText(state: IState, showPeers: boolean, t: Translate): IStatusText {
  const peers = state.hosts?.filter(host => host.id !== LOCAL && ['ready', 'busy'].includes(host.state)).length ?? 0;
  const parts = [hostName(state, t)];
  const { asking, serving } = state.requests ?? { asking: [], serving: [] };
  if (state.rate?.now && (asking.length || serving.length)) {
    parts.push(tokensPerSecond(state.rate.now, t));
  } else if (asking.length) {
    parts.push(t('waiting'));
  }
  if (showPeers) {
    parts.push(peers === 1 ? t('1 peer') : t('%1 peers', peers));
  }
  return { main: line(...parts), sharing: sharingText(state, t) };
}

function sharingText(state: IState, t: Translate): string {
  if (accessTrouble(state, t)) {
    return t('⚠ Access file broken');
  }
  if (!state.node?.sharing) {
    return t('Sharing off');
  }
  return state.node.paused ? t('Sharing paused') : t('Sharing on');
}
