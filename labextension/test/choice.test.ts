import { describe, expect, it } from 'vitest';

import { readChoice, restoring, toChoice } from '../src/choice';
import type { IHost } from '../src/contract';

const ANNA = 'dpc-node-51d3aaaabbbbccccddddeeeeffffe07a';
const LOCAL = { id: 'local', name: 'Local', model: null };
const saved = { host: ANNA, name: 'anna', model: 'llama3-70b' };
const hosts = (...ids: string[]) => ids.map(id => ({ id }) as IHost);

describe('what a notebook file says of its host', () => {
  it('is read', () => expect(readChoice({ ...saved, other: 1 })).toEqual(saved));

  it('is nothing where there is nothing', () => {
    for (const metadata of [undefined, null, 3, 'anna', [], {}, { host: 3 }]) {
      expect(readChoice(metadata)).toBeNull();
    }
  });

  it('cannot be an address: opening a file must not make a machine call anybody', () => {
    for (const host of ['dpc://evil:8889?node_id=dpc-node-1', 'anna', 'dpc-node-../x', `${ANNA} `]) {
      expect(readChoice({ ...saved, host })).toBeNull();
    }
  });

  it('is one line of bounded length, without bidirectional marks', () => {
    const choice = readChoice({ host: ANNA, name: `a\n\u202eb${'x'.repeat(500)}`, model: 7 })!;
    expect(choice.name).toMatch(/^a {2}bx+$/);
    expect(choice.name).toHaveLength(200);
    expect(choice.model).toBeNull();
  });
});

describe('the choice that is kept', () => {
  it('is what the kernel says', () => expect(toChoice({ id: ANNA, name: 'anna', model: 'llama3-70b' })).toEqual(saved));

  it('is none while the kernel is as it began', () => expect(toChoice(LOCAL)).toBeNull());

  it('keeps a local model', () =>
    expect(toChoice({ ...LOCAL, model: 'm' })).toEqual({ host: 'local', name: 'Local', model: 'm' }));
});

describe('when a kernel is met', () => {
  it('the saved host is chosen again', () =>
    expect(restoring(saved, LOCAL, hosts('local', ANNA))).toEqual({ do: 'choose', choice: saved }));

  it('a host that was never met is only told of', () =>
    expect(restoring(saved, LOCAL, hosts('local'))).toEqual({ do: 'tell', name: 'anna' }));

  it('a kernel that has a choice keeps it', () =>
    expect(restoring(saved, { id: 'dpc-node-2', name: 'lab', model: null }, hosts('local', ANNA))).toEqual({ do: 'nothing' }));

  it('a choice that the kernel has read from the file is as good as its page', () => {
    const restored = { id: ANNA, name: 'anna', model: 'llama3-70b', restored: true };
    expect(restoring(saved, restored, hosts('local', ANNA))).toEqual({ do: 'nothing' });
    const newer = { host: 'dpc-node-2', name: 'lab', model: null };
    expect(restoring(newer, restored, hosts('local', ANNA, 'dpc-node-2'))).toEqual({ do: 'choose', choice: newer });
    const back = { host: 'local', name: 'local', model: null };
    expect(restoring(null, restored, hosts('local', ANNA))).toEqual({ do: 'choose', choice: back });
  });

  it('a notebook without a choice leaves it alone', () =>
    expect(restoring(null, LOCAL, hosts('local'))).toEqual({ do: 'nothing' }));
});
