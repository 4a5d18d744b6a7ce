import { AsofError } from '../errors.js';
import type { ImageFormat } from './format.js';

export const qcow2: ImageFormat = {
  name: 'qcow2',
  probe: file => (file.read(0, 4).toString('latin1') === 'QFI\xfb' ? 'yes' : 'no'),
  open(file) {
    throw new AsofError('IMAGE_UNSUPPORTED', `${file.path}: qcow2 is being built`);
  },
};
