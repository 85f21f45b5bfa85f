/** What the kernel sends and is asked: dpc_jupyter/jupyter/faces/ (state.py, calls.py) tells the same in Python. */

export interface IModel {
  model: string;
  provider: string;
  context_window: number | null;
  vision: boolean;
  warm: boolean | null;
}

export interface IHost {
  id: string;
  name: string;
  state: 'ready' | 'busy' | 'known' | 'unreachable';
  kind: string;
  rtt_ms: number | null;
  reason: string;
  waiting: number | null;
  running: number | null;
  eta_s: number | null;
  models: IModel[];
}

export interface IChosen {
  id: string;
  name: string;
  model: string | null;
  /** As the notebook's file says it: nobody has chosen since. */
  restored?: boolean;
}

/** The sections that Lab's own pieces read; the views read them all. */
export interface IState {
  node?: {
    running: boolean;
    name: string;
    node_id: string;
    address: string | null;
    sharing: boolean;
    paused: boolean;
    error: string | null;
    hub: string;
    takes_calls: boolean;
  };
  hosts?: IHost[];
  chosen?: IChosen;
  requests?: { asking: { state: string }[]; serving: unknown[] };
  rate?: { now: number };
  access?: { error: string | null };
}

export type Section = keyof IState | 'link' | string;

/** A face's end of the talk with the kernel; the same for widgets and Lab. */
export interface IClient {
  readonly id: string;
  readonly state: IState;
  readonly link: 'live' | 'lost' | 'ended';
  receive(message: unknown): void;
  setLink(link: 'live' | 'lost'): void;
  /** Rejects with one sentence to show in place. */
  call<T = unknown>(method: string, params?: object): Promise<T>;
  onState(callback: (state: IState, sections: Section[]) => void): () => void;
  dispose(): void;
}

export type Translate = (text: string, ...args: any[]) => string;

/** Draws itself into an element; what it returns takes it away again. */
export type View = (el: HTMLElement, client: IClient, t: Translate) => () => void;

export const LOCAL = 'local';
