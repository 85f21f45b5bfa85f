import { Signal } from '@lumino/signaling';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { KernelLink } from '../src/link';
import { NotebookModel } from '../src/model';

const ANNA = 'dpc-node-51d3aaaabbbbccccddddeeeeffffe07a';
const t = (text: string, ...args: unknown[]) => text.replace(/%(\d)/g, (_, n) => String(args[n - 1]));
const settle = () => new Promise(resolve => setTimeout(resolve));

/** A kernel as JupyterLab shows it, with or without dpc_jupyter in it. */
class Kernel {
  constructor(
    public loaded = true,
    language = 'python'
  ) {
    this.info = Promise.resolve({ language_info: { name: language } });
  }

  info;
  handleComms = true;
  supportsSubshells = false;
  open: any[] = [];
  calls: any[] = [];
  executed: string[] = [];
  installed = true;
  status = 'idle';
  hears = true;
  unreachable = false;
  state = {
    chosen: { id: 'local', name: 'this machine', model: null as string | null },
    hosts: [
      { id: 'local', models: [] },
      { id: ANNA, models: [] }
    ]
  };

  createComm(target: string): any {
    const comm = {
      target,
      isDisposed: false,
      onMsg: (_: any) => undefined,
      onClose: () => undefined,
      open: (data: any) => {
        if (!this.hears) {
          return { done: settle() };
        }
        if (!this.loaded) {
          comm.onClose();
          comm.isDisposed = true;
        } else {
          this.open.push({ comm, data });
          target === 'dpc.events' && this.tell({ state: this.state });
        }
        return { done: settle() };
      },
      close: () => (comm.isDisposed = true),
      send: (message: any) => void this.answer(message)
    };
    return comm;
  }

  tell(data: any) {
    for (const { comm } of this.open.filter(each => each.comm.target === 'dpc.events' && !each.comm.isDisposed)) {
      comm.onMsg({ content: { data } });
    }
  }

  choose(id: string, model: string | null = null) {
    this.state = { ...this.state, chosen: { id, name: id === ANNA ? 'anna' : id, model } };
    this.tell({ state: { chosen: this.state.chosen } });
  }

  async answer({ id, method, params }: any) {
    this.calls.push([method, params]);
    await settle();
    if (method === 'choose' && this.unreachable) {
      this.tell({ reply: id, error: 'anna cannot be reached.' });
      return;
    }
    if (method === 'choose') {
      this.choose(params.host, params.model);
    }
    this.tell({ reply: id, result: this.state.chosen });
  }

  requestExecute({ code }: any) {
    this.executed.push(code);
    this.loaded = this.installed;
    const content = this.installed ? { status: 'ok' } : { status: 'error', ename: 'ModuleNotFoundError', evalue: '' };
    return { done: Promise.resolve({ content }) };
  }
}

function sessionOf(kernel: Kernel | null): any {
  const session: any = { ready: Promise.resolve(), session: kernel && { kernel } };
  for (const name of ['kernelChanged', 'statusChanged', 'connectionStatusChanged']) {
    session[name] = new Signal(session);
  }
  return session;
}

function notebookOf(session: any, metadata: Record<string, unknown> = {}): any {
  return {
    sessionContext: session,
    ready: Promise.resolve(),
    disposed: new Signal({}),
    model: {
      getMetadata: (key: string) => metadata[key],
      setMetadata: (key: string, value: unknown) => (metadata[key] = value),
      deleteMetadata: (key: string) => delete metadata[key]
    }
  };
}

const phase = (link: KernelLink, wanted: string) => vi.waitFor(() => expect(link.phase).toBe(wanted));
let links: { dispose(): void }[] = [];
const kept = <T extends { dispose(): void }>(link: T): T => (links.push(link), link);

beforeEach(() => (links = []));
afterEach(() => links.forEach(link => link.dispose()));

describe('the link to a kernel', () => {
  it('is live when dpc_jupyter is loaded', async () => {
    const kernel = new Kernel();
    const link = kept(new KernelLink(sessionOf(kernel), t));
    await phase(link, 'live');
    expect(kernel.open.map(each => each.comm.target)).toEqual(['dpc.events', 'dpc.rpc']);
    expect(kernel.open[0].data).toEqual({ client: link.client.id });
  });

  it('is none without a kernel, and for other languages', async () => {
    await phase(kept(new KernelLink(sessionOf(null), t)), 'none');
    await phase(kept(new KernelLink(sessionOf(new Kernel(true, 'R')), t)), 'none');
  });

  it('is absent when the kernel closes the comm, until dpc_jupyter is loaded', async () => {
    const kernel = new Kernel(false);
    const link = kept(new KernelLink(sessionOf(kernel), t));
    await phase(link, 'absent');
    await link.load();
    await phase(link, 'live');
    expect(kernel.executed).toEqual(['%load_ext dpc_jupyter']);
  });

  it('says what to do where dpc_jupyter is not installed', async () => {
    const kernel = new Kernel(false);
    kernel.installed = false;
    const link = kept(new KernelLink(sessionOf(kernel), t));
    await phase(link, 'absent');
    await link.load();
    expect(link.phase).toBe('absent');
    expect(link.problem).toContain('install it there, too');
  });

  it('is found when the user has loaded it himself', async () => {
    const kernel = new Kernel(false);
    const link = kept(new KernelLink(sessionOf(kernel), t));
    await phase(link, 'absent');
    kernel.loaded = true;
    link.retry();
    await phase(link, 'live');
  });

  it('survives a restart, and forgets what the kernel before it said', async () => {
    const kernel = new Kernel();
    const session = sessionOf(kernel);
    const link = kept(new KernelLink(session, t));
    await phase(link, 'live');
    session.statusChanged.emit('restarting');
    expect([link.phase, link.client.link]).toEqual(['connecting', 'lost']);
    kernel.loaded = false;
    session.statusChanged.emit('idle');
    await phase(link, 'absent');
  });

  it('is opened anew where a kernel that restarts lost the opening, once that kernel is idle', async () => {
    vi.useFakeTimers();
    try {
      const kernel = new Kernel();
      Object.assign(kernel, { hears: false, status: 'busy' });
      const link = kept(new KernelLink(sessionOf(kernel), t));
      await vi.advanceTimersByTimeAsync(6000);
      kernel.hears = true;
      await vi.advanceTimersByTimeAsync(6000);
      expect([link.phase, kernel.open.length]).toEqual(['connecting', 0]);
      kernel.status = 'idle';
      await vi.advanceTimersByTimeAsync(6000);
      expect([link.phase, kernel.open.length]).toEqual(['live', 2]);
      await vi.advanceTimersByTimeAsync(60000);
      expect(kernel.open).toHaveLength(2);
    } finally {
      vi.useRealTimers();
    }
  });

  it('is opened anew after a broken connection and with another kernel', async () => {
    const session = sessionOf(new Kernel());
    const link = kept(new KernelLink(session, t));
    await phase(link, 'live');
    session.connectionStatusChanged.emit('connecting');
    expect(link.phase).toBe('connecting');
    session.connectionStatusChanged.emit('connected');
    await phase(link, 'live');
    const other = new Kernel();
    session.session.kernel = other;
    session.kernelChanged.emit({});
    await vi.waitFor(() => expect(other.open).toHaveLength(2));
    await phase(link, 'live');
  });

  it('is none when the kernel is dead', async () => {
    const session = sessionOf(new Kernel());
    const link = kept(new KernelLink(session, t));
    await phase(link, 'live');
    session.statusChanged.emit('dead');
    expect(link.phase).toBe('none');
  });
});

describe("a notebook's choice", () => {
  const saved = { host: ANNA, name: 'anna', model: 'llama3-70b' };

  it('is made again in a new kernel, with and without a restart', async () => {
    const kernel = new Kernel();
    const session = sessionOf(kernel);
    const metadata = { dpc: { ...saved } };
    kept(new NotebookModel(notebookOf(session, metadata), t));
    const chosen = { id: ANNA, name: 'anna', model: 'llama3-70b' };
    await vi.waitFor(() => expect(kernel.state.chosen).toEqual(chosen));
    session.statusChanged.emit('restarting');
    kernel.state = { ...kernel.state, chosen: { id: 'local', name: 'this machine', model: null } };
    session.statusChanged.emit('idle');
    await vi.waitFor(() => expect(kernel.state.chosen).toEqual(chosen));
    expect(metadata.dpc).toEqual(saved);
  });

  it('goes into the file when a cell makes it, and out of it with the return to this machine', async () => {
    const kernel = new Kernel();
    const metadata: Record<string, unknown> = {};
    const model = kept(new NotebookModel(notebookOf(sessionOf(kernel), metadata), t));
    await phase(model.link, 'live');
    await settle();
    expect(metadata).toEqual({});
    kernel.choose(ANNA, 'llama3-70b');
    expect(metadata).toEqual({ dpc: saved });
    kernel.choose('local');
    expect(metadata).toEqual({});
  });

  it('stays in the file when its host cannot be reached, with a note, until the user chooses', async () => {
    const kernel = new Kernel();
    kernel.unreachable = true;
    const metadata: Record<string, unknown> = { dpc: saved };
    const model = kept(new NotebookModel(notebookOf(sessionOf(kernel), metadata), t));
    await vi.waitFor(() => expect(model.note).toBe('This notebook was saved with anna: anna cannot be reached.'));
    expect(metadata).toEqual({ dpc: saved });
    model.keep();
    expect([metadata, model.note]).toEqual([{}, '']);
  });

  describe('of a host that was away', () => {
    const away = async (metadata: Record<string, unknown>) => {
      const kernel = new Kernel();
      kernel.unreachable = true;
      const model = kept(new NotebookModel(notebookOf(sessionOf(kernel), metadata), t));
      await vi.waitFor(() => expect(model.note).toContain('cannot be reached'));
      kernel.unreachable = false;
      const become = (state: string) => kernel.tell({ state: { hosts: [{ id: ANNA, state, models: [] }] } });
      const tries = () => kernel.calls.filter(([method]) => method === 'choose').length;
      return { kernel, model, become, tries };
    };

    it('is made when it is linked, and not before', async () => {
      const metadata = { dpc: { ...saved } };
      const { kernel, model, become, tries } = await away(metadata);
      become('known');
      become('unreachable');
      await settle();
      expect(tries()).toBe(1);
      become('ready');
      await vi.waitFor(() => expect(kernel.state.chosen.id).toBe(ANNA));
      await vi.waitFor(() => expect(model.note).toBe(''));
      expect(metadata.dpc).toEqual(saved);
    });

    it('is tried once more only', async () => {
      const { kernel, model, become, tries } = await away({ dpc: { ...saved } });
      kernel.unreachable = true;
      become('ready');
      await vi.waitFor(() => expect(tries()).toBe(2));
      await settle();
      become('busy');
      await settle();
      expect([tries(), model.note]).toEqual([2, 'This notebook was saved with anna: anna cannot be reached.']);
    });

    it('is not made over what the user chose meanwhile', async () => {
      const { kernel, model, become, tries } = await away({ dpc: { ...saved } });
      model.keep();
      kernel.choose('local', 'smollm2');
      become('ready');
      await settle();
      expect([tries(), kernel.state.chosen.id]).toEqual([1, 'local']);
    });
  });

  it('of a kernel that has one goes into the file', async () => {
    const kernel = new Kernel();
    kernel.choose(ANNA, 'llama3-70b');
    const metadata: Record<string, unknown> = {};
    kept(new NotebookModel(notebookOf(sessionOf(kernel), metadata), t));
    await vi.waitFor(() => expect(metadata).toEqual({ dpc: saved }));
    expect(kernel.calls.filter(([method]) => method === 'choose')).toEqual([]);
  });
});
