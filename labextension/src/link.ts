import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import { type JSONObject, PromiseDelegate } from '@lumino/coreutils';
import type { IDisposable } from '@lumino/disposable';
import { type ISignal, Signal } from '@lumino/signaling';

import type { IClient, IState, Translate } from './contract';
import { Client } from './views';
import type { Phase } from './wording';

/** Comm targets. Two, because only a handler of a comm that JavaScript opened runs while a cell does. */
const RPC = 'dpc.rpc';
const EVENTS = 'dpc.events';
const SUBSHELL_MS = 2000;
const LOST_MS = 5000;
const LOAD = '%load_ext dpc_jupyter';

/**
 * The talk with the kernel of one session, over whatever happens to that kernel.
 *
 * The client stays the same; its link is lost and live again with each restart, change of kernel and broken connection.
 */
export class KernelLink implements IDisposable {
  constructor(
    private _session: ISessionContext,
    private _t: Translate
  ) {
    const send = (message: object) => {
      if (!this._rpc) {
        throw new Error(_t('The kernel is not connected.'));
      }
      this._rpc.send(message as JSONObject);
    };
    this.client = new Client(send, { t: _t });
    this.client.onState(() => {
      if (this._phase === 'live' && this.client.link === 'lost') {
        void this.connect(); // the kernel is silent: busy, or without dpc_jupyter by now
      }
    });
    _session.kernelChanged.connect(this.connect, this);
    _session.statusChanged.connect(this._onStatus, this);
    _session.connectionStatusChanged.connect(this._onConnection, this);
    void this.connect();
  }

  readonly client: IClient;

  get phase(): Phase {
    return this._phase;
  }

  /** Why dpc_jupyter could not be loaded, as one sentence; else "". */
  get problem(): string {
    return this._problem;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    if (!this._isDisposed) {
      this._isDisposed = true;
      this._attempt++;
      this._drop();
      this.client.dispose();
      Signal.clearData(this);
    }
  }

  /** Open the comms anew. A kernel without dpc_jupyter closes them at once. */
  async connect(): Promise<void> {
    const attempt = ++this._attempt;
    const stale = () => attempt !== this._attempt;
    this._setPhase('connecting');
    this._drop();
    try {
      await this._session.ready;
      const kernel = this._session.session?.kernel;
      const language = (await kernel?.info)?.language_info.name;
      if (stale()) {
        return;
      }
      if (!kernel?.handleComms || language !== 'python') {
        this._setPhase('none');
        return;
      }
      const state = new PromiseDelegate<void>();
      const onMessage = (data: JSONObject) => {
        this.client.receive(data);
        if ((data.state as IState | undefined)?.chosen) {
          state.resolve();
        }
      };
      const onClose = () => !stale() && this._onAbsent();
      await this._open(kernel, EVENTS, onClose, onMessage);
      // The kernel knows now whom to answer, and the client's state is no longer that of the kernel before.
      // A kernel that restarts may lose the opening, and then nothing more would come.
      const lost = setInterval(() => {
        if (stale()) {
          clearInterval(lost);
        } else if (kernel.status === 'idle') {
          void this.connect();
        }
      }, LOST_MS);
      await state.promise;
      clearInterval(lost);
      const rpc = stale() ? null : await this._open(kernel, RPC, onClose);
      if (!stale()) {
        this._rpc = rpc;
        this._justLoaded = false;
        this._problem = '';
        this._setPhase('live');
      }
    } catch {
      // The kernel died or was changed meanwhile; its next signal begins a new attempt.
    }
  }

  /** Look again whether the kernel has dpc_jupyter by now. */
  retry(): void {
    if (this._phase === 'absent') {
      void this.connect();
    }
  }

  /** Load dpc_jupyter into the kernel; what hinders it is told by `problem`. */
  async load(): Promise<void> {
    const kernel = this._session.session?.kernel;
    if (!kernel || this._phase !== 'absent') {
      return;
    }
    this._problem = '';
    this._setPhase('loading');
    try {
      const request = { code: LOAD, silent: true, store_history: false, stop_on_error: false };
      const { content } = await kernel.requestExecute(request).done;
      if (content.status === 'error') {
        this._problem =
          content.ename === 'ModuleNotFoundError'
            ? this._t("dpc_jupyter is not installed in this kernel's Python: install it there, too.")
            : this._t('dpc_jupyter could not be loaded: %1', content.evalue.slice(0, 300));
        this._setPhase('absent');
        return;
      }
      this._justLoaded = true;
      await this.connect();
    } catch {
      // As in connect.
    }
  }

  private async _open(
    kernel: Kernel.IKernelConnection,
    target: string,
    onClose: () => void,
    onMessage?: (data: JSONObject) => void
  ): Promise<Kernel.IComm> {
    const comm = kernel.createComm(target) as Kernel.IComm & { subshellStarted?: Promise<void> };
    this._comms.push(comm);
    comm.onClose = () => {
      this._comms = this._comms.filter(each => each !== comm);
      onClose();
    };
    comm.onMsg = message => onMessage?.(message.content.data);
    if (kernel.supportsSubshells) {
      // Without one, the opening would wait for a running cell. JupyterLab loses one where a connection breaks.
      await Promise.race([comm.subshellStarted, new Promise(resolve => setTimeout(resolve, SUBSHELL_MS))]);
    }
    if (!comm.isDisposed) {
      comm.open({ client: this.client.id });
    }
    return comm;
  }

  private _onAbsent(): void {
    this._attempt++;
    if (this._justLoaded) {
      this._justLoaded = false;
      this._problem = this._t(
        "This kernel's dpc_jupyter is not the one of this JupyterLab: install the same version beside both."
      );
    }
    this._setPhase('absent');
    this._drop();
  }

  private _onStatus(_: ISessionContext, status: Kernel.Status): void {
    if (['restarting', 'autorestarting', 'dead', 'terminating'].includes(status)) {
      this._attempt++;
      this._setPhase(status === 'dead' || status === 'terminating' ? 'none' : 'connecting');
      this._drop(true);
      this._restarted = true;
    } else if (this._restarted && status === 'idle') {
      void this.connect();
    }
  }

  private _onConnection(_: ISessionContext, status: Kernel.ConnectionStatus): void {
    if (status === 'connected') {
      void this.connect(); // what the kernel said meanwhile is lost
    } else if (this._phase === 'live') {
      this._setPhase('connecting');
      this.client.setLink('lost');
    }
  }

  /** Close what is open; a kernel that ends is better left alone. */
  private _drop(kernelEnds = false): void {
    this._rpc = null;
    this._restarted = false;
    for (const comm of this._comms.splice(0)) {
      comm.onClose = () => undefined;
      if (!kernelEnds && !comm.isDisposed) {
        try {
          comm.close();
        } catch {
          // Its kernel is gone already.
        }
      }
    }
    this.client.setLink('lost');
  }

  private _setPhase(phase: Phase): void {
    if (phase !== this._phase) {
      this._phase = phase;
      this._changed.emit();
    }
  }

  private _attempt = 0;
  private _changed = new Signal<this, void>(this);
  private _comms: Kernel.IComm[] = [];
  private _isDisposed = false;
  private _justLoaded = false;
  private _phase: Phase = 'connecting';
  private _problem = '';
  private _restarted = false;
  private _rpc: Kernel.IComm | null = null;
}
