import { describe, expect, it } from 'vitest';

import type { IHost, IState } from '../src/contract';
import { accessTrouble, choiceLabel, choiceTooltip, stateName, statusText } from '../src/wording';

const t = (text: string, ...args: unknown[]) => text.replace(/%(\d)/g, (_, n) => String(args[n - 1]));
const host = (id: string, name: string, state: IHost['state'], ...models: string[]) =>
  ({ id, name, state, reason: '', models: models.map(model => ({ model })) }) as IHost;
const state: IState = {
  hosts: [host('local', 'Local', 'ready', 'smollm2'), host('a', 'anna', 'busy', 'llama3-70b'), host('c', 'carol', 'unreachable')],
  chosen: { id: 'a', name: 'anna', model: null },
  node: { running: true, name: 'bob', node_id: 'b', address: null, sharing: false, paused: false, error: null }
};

describe('the toolbar', () => {
  it("names the host and, where none is chosen, the host's first model", () =>
    expect(choiceLabel('live', state, t)).toBe('anna · llama3-70b'));

  it('names the chosen model', () =>
    expect(choiceLabel('live', { ...state, chosen: { id: 'a', name: 'anna', model: 'llava' } }, t)).toBe('anna · llava'));

  it('calls this machine Local, whatever the kernel calls it', () =>
    expect(choiceLabel('live', { ...state, chosen: { id: 'local', name: 'this machine', model: null } }, t)).toBe('Local · smollm2'));

  it('offers to load where the kernel has nothing', () => expect(choiceLabel('absent', {}, t)).toBe('Load DPC'));

  it('tells the state in words, and what did not work out', () =>
    expect(choiceTooltip('live', state, 'A note.', t)).toBe('Compute host of this notebook\nanna · busy\nA note.'));

  it('tells the way to a peer, and none to this machine', () => {
    const hosts = [{ ...host('local', 'Local', 'ready'), kind: 'local' }, { ...host('a', 'anna', 'busy'), kind: 'via rita' }];
    expect(choiceTooltip('live', { ...state, hosts }, '', t)).toContain('\nanna · busy · via rita');
    const chosen = { id: 'local', name: 'Local', model: null };
    expect(choiceTooltip('live', { ...state, hosts, chosen }, '', t)).toContain('\nLocal · ready');
    expect(choiceTooltip('live', { ...state, hosts, chosen }, '', t)).not.toContain('local');
  });

  it('tells a lost kernel', () => expect(stateName('connecting', state, t)).toBe('not connected'));
});

describe('the status bar', () => {
  it('counts the peers that are linked', () => expect(statusText(state, true, t).main).toBe('anna · 1 peer'));

  it('counts them only if wanted', () => expect(statusText(state, false, t).main).toBe('anna'));

  it('shows tokens a second while a request is open', () => {
    const requests = { asking: [{ state: 'running' }], serving: [] };
    expect(statusText({ ...state, requests, rate: { now: 64 } }, false, t).main).toBe('anna · 64 tokens/s');
    expect(statusText({ ...state, rate: { now: 64 } }, false, t).main).toBe('anna');
  });

  it('says that a request waits', () =>
    expect(statusText({ ...state, requests: { asking: [{ state: 'queued' }], serving: [] } }, false, t).main).toBe('anna · waiting'));

  it('tells of an access file that is broken, where the node would let somebody in', () => {
    const access = { error: '/home/bob/.dpc/privacy_rules.json: line 3, column 5: Expecting value' };
    const listening = { ...state, access, node: { ...state.node!, address: 'dpc://192.0.2.7:8889?node_id=b' } };
    expect(statusText(listening, true, t).sharing).toBe('⚠ Access file broken');
    expect(accessTrouble(listening, t)).toContain('nobody is let in: /home/bob/.dpc/privacy_rules.json: line 3, column 5');
    expect([accessTrouble({ ...listening, access: { error: null } }, t), accessTrouble({}, t)]).toEqual(['', '']);
    expect(accessTrouble({ ...state, access }, t)).toBe('');
  });

  it.each([
    [false, false, 'Sharing off'],
    [true, false, 'Sharing on'],
    [true, true, 'Sharing paused']
  ])('sharing %s, paused %s: %s', (sharing, paused, text) =>
    expect(statusText({ ...state, node: { ...state.node!, sharing, paused } }, true, t).sharing).toBe(text));
});
